// Numbers of bf16, sixteen at a time, and the layouts that products want.
//
// One instruction multiplies pairs: a word holds two bf16 numbers that are neighbours along the summed dimension.

#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

using Word = uint32_t;
using Bf16 = uint16_t;

static inline float wide(Bf16 x) {
    Word bits = Word(x) << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

static inline __m512 wide16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

static inline __m256i narrow16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline __m512 load16(const Bf16* from) { return wide16(_mm256_loadu_si256((const __m256i*)from)); }

static inline void store16(Bf16* to, __m512 x) { _mm256_storeu_si256((__m256i*)to, narrow16(x)); }

// 2^x for x of 0 or less (and a little more); relative error 8e-8, by a polynomial fitted to the middle octave.
static inline __m512 exp2_16(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(0.001327649806626141f);
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.00967553909868002f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.05550713092088699f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.24022120237350464f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(0.6931469440460205f));
    p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(1.0000001192092896f));
    return _mm512_scalef_ps(p, whole);
}

// 16 x 16 words, from rows `from_row` words apart to rows `to_row` words apart.
static inline void transpose16(const Word* from, int from_row, Word* to, int to_row) {
    __m512i x[16], y[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + i * from_row);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        _mm512_storeu_si512(to + i * to_row, _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_row, _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 4) * to_row, _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * to_row, _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd));
    }
}

// (rows x columns) words to (columns x rows); both multiples of 16.
static void transpose(int rows, int columns, const Word* from, int from_row, Word* to, int to_row) {
    for (int r = 0; r < rows; r += 16)
        for (int c = 0; c < columns; c += 16) transpose16(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
}

// Two rows of 16 numbers, number by number beside each other: what a summed dimension of rows wants.
static inline __m512i beside(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// (rows x columns) numbers to (rows / 2 x columns) words: neighbours along the rows share a word.
static void pair_rows(int rows, int columns, const Bf16* from, int from_row, Word* to) {
    for (int r = 0; r < rows; r += 2)
        for (int c = 0; c < columns; c += 16)
            _mm512_storeu_si512(to + r / 2 * columns + c,
                                beside(_mm256_loadu_si256((const __m256i*)(from + r * from_row + c)),
                                       _mm256_loadu_si256((const __m256i*)(from + (r + 1) * from_row + c))));
}

// `rows` rows of a matrix that has `present` of them; those beyond are zero.
static void copy_rows(int rows, int present, int columns, const Bf16* from, int64_t from_row, Bf16* to) {
    for (int r = 0; r < rows; ++r) {
        if (r < present)
            std::memcpy(to + r * columns, from + r * from_row, columns * sizeof(Bf16));
        else
            std::memset(to + r * columns, 0, columns * sizeof(Bf16));
    }
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

template <typename T>
static Buffer<T> buffer(int64_t count) {
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
}
