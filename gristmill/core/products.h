// The three products of a linear layer in bf16 with sums in fp32: Y = X W', the gradient of X, which is G W, and that of
// W, which is G' X (' turns a matrix, G is the gradient of Y). X and G are read as they lie, rows of numbers; W is packed.
//
// The right operand lies in panels of 32 columns, so that a tile of sums stays in registers while both operands stream
// past it (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"). Inside an `omp parallel`
// region, `pack...` and `add_turned_products` are called by all threads, which have `Tiles`, and end in a barrier.

#pragma once
#include <omp.h>

#include <algorithm>

#include "multiply.h"

// The stretch of `count` that falls to one of several threads, in whole units; else to this one.
struct Share {
    int64_t first, last;
    Share(int64_t count, int64_t unit, int64_t me, int64_t all) {
        const int64_t units = (count + unit - 1) / unit;
        first = std::min(count, units * me / all * unit), last = std::min(count, units * (me + 1) / all * unit);
    }
    explicit Share(int64_t count, int64_t unit = 1) : Share(count, unit, omp_get_thread_num(), omp_get_num_threads()) {}
};

// Rows of tokens that fall to this thread, in whole tiles.
static inline Share rows_of_thread(int64_t rows) { return Share(rows, TILE); }

static inline __m256i sixteen(const float* from) { return narrow16(_mm512_loadu_ps(from)); }
static inline __m256i sixteen(const Bf16* from) { return _mm256_loadu_si256((const __m256i*)from); }
static inline __m512i words(const float* from) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
}
static inline __m512i words(const Bf16* from) { return _mm512_loadu_si512(from); }

// W (outer x inner) as the right operand of X W', at the columns from `column` on, its panels so many apart: both sizes
// multiples of 32.
template <typename T>
static void pack_turned(int64_t outer, int64_t inner, const T* from, int64_t column, int64_t apart, Word* panels) {
#pragma omp for schedule(static)
    for (int64_t j = 0; j < outer; j += 16)
        for (int64_t p = 0; p < inner / 2; p += 16) {
            alignas(64) Word block[256];
            for (int i = 0; i < 16; ++i) _mm512_store_si512(block + 16 * i, words(from + (j + i) * inner + 2 * p));
            transpose16(block, 16, panels + in_panels(inner / 2, p, column + j / PANEL * PANEL * apart + j % PANEL), NEXT_PAIR);
        }
}

// Rows of `columns` numbers, `row` apart, as the right operand of a product that sums over them: the pairs from `first`
// to `last` of them, among `pairs` in all, `before` of which are those of other matrices. A row that is wanting is zero.
template <typename T>
static void pack_pairs(int64_t first, int64_t last, int64_t rows, int64_t columns, const T* from, int64_t row,
                       int64_t before, int64_t pairs, Word* panels) {
    for (int64_t p = first; p < last; ++p)
        for (int64_t j = 0; j < columns; j += 16) {
            const T* at = from + 2 * p * row + j;
            __m256i even = 2 * p < rows ? sixteen(at) : _mm256_setzero_si256();
            __m256i odd = 2 * p + 1 < rows ? sixteen(at + row) : _mm256_setzero_si256();
            _mm512_store_si512(panels + in_panels(pairs, before + p, j), beside(even, odd));
        }
}

// All pairs of the rows, by all threads.
template <typename T>
static void pack_rows(int64_t rows, int64_t columns, const T* from, int64_t row, int64_t before, int64_t pairs,
                      Word* panels) {
    Share own(pairs_of(rows));
    pack_pairs(own.first, own.last, rows, columns, from, row, before, pairs, panels);
#pragma omp barrier
}

// A matrix of fp32 (or bf16) numbers, rows one after another.
struct Weight {
    const void* at;
    int64_t outer, inner;
    bool wide;

    void pack_turned_to(int64_t column, Word* panels, int64_t apart = 1) const {
        if (wide)
            pack_turned(outer, inner, static_cast<const float*>(at), column, apart, panels);
        else
            pack_turned(outer, inner, static_cast<const Bf16*>(at), column, apart, panels);
    }
    void pack_rows_to(int64_t before, int64_t pairs, Word* panels) const {
        if (wide)
            pack_rows(outer, inner, static_cast<const float*>(at), inner, before, pairs, panels);
        else
            pack_rows(outer, inner, static_cast<const Bf16*>(at), inner, before, pairs, panels);
    }
};

#ifdef TILES
#include "products_amx.h"
#else
#include "products_avx512.h"
#endif
