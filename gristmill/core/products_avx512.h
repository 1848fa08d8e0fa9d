// The products of products.h with AVX512-BF16: a tile of 12 x 32 sums in registers.

#pragma once
#include "products.h"

constexpr int STRIP = 96;                 // columns of G that are packed at a time: eight tiles
constexpr int64_t SAME_CACHE_SET = 1024;  // rows a multiple of these numbers apart push each other out of the first cache

// As `pack_rows`, the left operand, by this thread alone: tiles of (pairs x 12).
static inline void pack_tiles(int64_t rows, int64_t columns, const Bf16* from, int64_t row, Word* tiles) {
    const int64_t pairs = pairs_of(rows);
    for (int64_t p = 0; p < pairs; ++p)
        for (int64_t j = 0; j < columns; j += TILE) {
            const __mmask16 there = (1u << std::min<int64_t>(TILE, columns - j)) - 1;
            const Bf16* even = from + 2 * p * row + j;
            __m256i odd = _mm256_maskz_loadu_epi16(2 * p + 1 < rows ? there : 0, even + row);
            _mm512_mask_storeu_epi32(tiles + j * pairs + p * TILE, there, beside(_mm256_maskz_loadu_epi16(there, even), odd));
        }
}

// One tile of a product, of M rows, to bf16.
template <int M>
static void tile_of_rows(int64_t pairs, const Word* a, int64_t a_row, const Word* b, Bf16* c, int64_t c_row) {
    __m512 sums[M][2] = {};
    for (int m = 0; m < M; ++m) __builtin_prefetch(c + m * c_row, 1);  // the stores come when the sums are done
    add_products(pairs, a, a_row, 1, b, PANEL, 16, sums);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
        _mm512_storeu_si512(c + m * c_row, (__m512i)_mm512_cvtne2ps_pbh(sums[m][1], sums[m][0]));
}

// C (rows x columns, bf16) = A (rows x 2 pairs) times panels, by this thread alone.
static void multiply_rows(int64_t rows, int64_t columns, int64_t pairs, const Bf16* a, int64_t a_row,
                          const Word* panels, Bf16* c, int64_t c_row) {
    const int64_t apart = 2 * pairs + PANEL;
    Buffer<Bf16> moved;
    if (a_row % SAME_CACHE_SET == 0) moved = buffer<Bf16>(ROWS * apart);
    for (int64_t begin = 0; begin < rows; begin += ROWS) {
        const int64_t end = std::min(rows, begin + ROWS);
        const Bf16* from = a + begin * a_row;
        int64_t step = a_row;
        if (moved) {
            for (int64_t r = 0; r < end - begin; ++r)
                std::memcpy(moved.get() + r * apart, from + r * a_row, 2 * pairs * sizeof(Bf16));
            from = moved.get(), step = apart;
        }
        for (int64_t j = 0; j < columns; j += PANEL) {
            auto tile = [&](auto multiplied, int64_t r) {
                multiplied(pairs, reinterpret_cast<const Word*>(from + (r - begin) * step), step / 2, panels + j * pairs,
                           c + r * c_row + j, c_row);
            };
            int64_t r = begin;
            for (; r + TILE <= end; r += TILE) tile(tile_of_rows<TILE>, r);
            for (; r + 4 <= end; r += 4) tile(tile_of_rows<4>, r);
            for (; r < end; ++r) tile(tile_of_rows<1>, r);
        }
    }
}

template <int M>
static void turned_tile(int64_t pairs, const Word* a, const Word* b, float* c, int64_t c_row, bool add) {
    __m512 sums[M][2] = {};
    for (int m = 0; m < M; ++m) __builtin_prefetch(c + m * c_row, 1), __builtin_prefetch(c + m * c_row + 16, 1);
    add_products(pairs, a, 1, TILE, b, PANEL, 16, sums);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
            float* at = c + m * c_row + 16 * n;
            _mm512_storeu_ps(at, add ? _mm512_add_ps(sums[m][n], _mm512_loadu_ps(at)) : sums[m][n]);
        }
}

// Room for the panels of `add_turned_products`.
static inline Buffer<Word> turned_room(int64_t inner) { return buffer<Word>(TOKENS / 2 * inner); }

// C (outer x inner, fp32) (+)= G' X of G (tokens x outer) and X (tokens x inner); outer a multiple of 4, inner of 32.
static void add_turned_products(int64_t tokens, int64_t outer, int64_t inner, const Bf16* g, int64_t g_row,
                                const Bf16* x, int64_t x_row, float* c, bool add, Word* panels) {
    const Share own = rows_of_thread(outer);
    auto tiles = buffer<Word>(TOKENS / 2 * STRIP);
    for (int64_t begin = 0; begin < tokens; begin += TOKENS, add = true) {
        const int64_t count = std::min(TOKENS, tokens - begin), pairs = pairs_of(count);
        pack_rows(count, inner, x + begin * x_row, x_row, 0, pairs, panels);
        for (int64_t first = own.first; first < own.last; first += STRIP) {
            const int64_t last = std::min(own.last, first + STRIP);
            pack_tiles(count, last - first, g + begin * g_row + first, g_row, tiles.get());
            for (int64_t r = first; r < last; r += TILE)
                for (int64_t j = 0; j < inner; j += PANEL) {
                    const Word *left = tiles.get() + (r - first) * pairs, *right = panels + j * pairs;
                    float* to = c + r * inner + j;
                    if (r + TILE <= last)
                        turned_tile<TILE>(pairs, left, right, to, inner, add);
                    else
                        for (int64_t m = 0; r + m < last; m += 4)
                            turned_tile<4>(pairs, left + m, right, to + m * inner, inner, add);
                }
        }
#pragma omp barrier
    }
}
