// Small products with AVX512-BF16 (see multiply.h).

#pragma once
#include "bf16.h"

// What a thread needs before it multiplies.
struct Tiles {
    Tiles() {}  // nothing
};

// Adds A B to a tile of C that is kept in registers: MR rows of 16 NR columns. A's word of row m and pair p lies at
// a[m * a_row + p * a_pair]; B's sixteen words of pair p and columns 16 n and on at b[p * b_pair + n * b_column].
template <int MR, int NR>
static inline __attribute__((always_inline)) void add_products(int64_t pairs, const Word* a, int64_t a_row,
                                                               int64_t a_pair, const Word* b, int64_t b_pair, int64_t b_column,
                                                               __m512 (&sums)[MR][NR]) {
    for (int64_t p = 0; p < pairs; ++p) {
        __m512bh columns[NR];
#pragma GCC unroll 4
        for (int n = 0; n < NR; ++n) columns[n] = (__m512bh)_mm512_loadu_si512(b + p * b_pair + n * b_column);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
            __m512bh one = (__m512bh)_mm512_set1_epi32(int(a[m * a_row + p * a_pair]));
#pragma GCC unroll 4
            for (int n = 0; n < NR; ++n) sums[m][n] = _mm512_dpbf16_ps(sums[m][n], one, columns[n]);
        }
    }
}

// C (+)= A B of some rows.
template <int MR>
static inline __attribute__((always_inline)) void multiply_some(int64_t count, const Word* left, int64_t left_step,
                                                                const Word* right, int64_t right_step, float* c,
                                                                bool add) {
    __m512 sums[MR][2];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) sums[m][n] = add ? _mm512_load_ps(c + m * SIDE + 16 * n) : _mm512_setzero_ps();
    for (int64_t i = 0; i < count; ++i)
        add_products(DEPTH, left + i * left_step, DEPTH, 1, right + i * right_step, 16, SQUARE / 2, sums);
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) _mm512_store_ps(c + m * SIDE + 16 * n, sums[m][n]);
}

// C (+)= A B.
static void multiply(int64_t count, const Word* left, int64_t left_step, const Word* right, int64_t right_step, float* c,
                     bool add) {
    multiply_some<12>(count, left, left_step, right, right_step, c, add);
    multiply_some<12>(count, left + 12 * DEPTH, left_step, right, right_step, c + 12 * SIDE, add);
    multiply_some<8>(count, left + 24 * DEPTH, left_step, right, right_step, c + 24 * SIDE, add);
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
