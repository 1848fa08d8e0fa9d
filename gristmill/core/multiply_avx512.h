// Small products with AVX512-BF16 (see multiply.h).

#pragma once
#include "bf16.h"

// What a thread needs before it multiplies.
struct Tiles {
    Tiles() {}  // nothing
};

// Adds A B to a tile of C that is kept in registers: MR rows of 16 NR columns. A's word of row m and pair p lies at
// a[m * a_row + p * a_pair].
template <int MR, int NR>
static inline __attribute__((always_inline)) void add_products(int64_t pairs, const Word* a, int64_t a_row,
                                                               int64_t a_pair, const Word* b, int64_t b_row,
                                                               __m512 (&sums)[MR][NR]) {
    for (int64_t p = 0; p < pairs; ++p) {
        __m512bh columns[NR];
#pragma GCC unroll 4
        for (int n = 0; n < NR; ++n) columns[n] = (__m512bh)_mm512_loadu_si512(b + p * b_row + 16 * n);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
            __m512bh one = (__m512bh)_mm512_set1_epi32(int(a[m * a_row + p * a_pair]));
#pragma GCC unroll 4
            for (int n = 0; n < NR; ++n) sums[m][n] = _mm512_dpbf16_ps(sums[m][n], one, columns[n]);
        }
    }
}

// A tile of C in memory.
template <int MR, int NR>
static inline __attribute__((always_inline)) void tile(int pairs, const Word* a, int a_row, const Word* b, int b_row,
                                                       float* c, int c_row, bool add) {
    __m512 sums[MR][NR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < NR; ++n) sums[m][n] = add ? _mm512_loadu_ps(c + m * c_row + 16 * n) : _mm512_setzero_ps();
    add_products(pairs, a, a_row, 1, b, b_row, sums);
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < NR; ++n) _mm512_storeu_ps(c + m * c_row + 16 * n, sums[m][n]);
}

template <int NR>
static void strip(int rows, int pairs, const Word* a, int a_row, const Word* b, int b_row, float* c, int c_row,
                  bool add) {
    int m = 0;
    for (; m + 6 <= rows; m += 6) tile<6, NR>(pairs, a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, add);
    for (; m + 2 <= rows; m += 2) tile<2, NR>(pairs, a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, add);
}

// C (+)= A B; rows must be even, columns a multiple of 32.
static void multiply(int rows, int columns, int pairs, const Word* a, int a_row, const Word* b, int b_row, float* c,
                     int c_row, bool add) {
    int n = 0;
    for (; n + 64 <= columns; n += 64) strip<4>(rows, pairs, a, a_row, b + n, b_row, c + n, c_row, add);
    if (n < columns) strip<2>(rows, pairs, a, a_row, b + n, b_row, c + n, c_row, add);
}

// Of larger products (products.h):
constexpr int PANEL = 32;
constexpr int TILE = 12;                      // rows of C that are summed at a time
constexpr int64_t ROWS = 96;                  // that are taken through all panels before the next
constexpr int64_t TOKENS = 576;               // over which G' X is summed before the sums go to memory
constexpr int64_t BLOCK_TOKENS = 2 * TOKENS;  // for which one product after another is made, while the last cache has them

// Pairs that so many rows are packed as.
static inline int64_t pairs_of(int64_t rows) { return (rows + 1) / 2; }

// Where the word of a pair and a column lies among panels of so many pairs, and how far the next pair is.
static inline int64_t in_panels(int64_t pairs, int64_t pair, int64_t column) {
    return (column / PANEL * pairs + pair) * PANEL + column % PANEL;
}
constexpr int NEXT_PAIR = PANEL;
