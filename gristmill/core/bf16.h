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

// 2^x for x of 0 or less (and up to 2^17); relative error 6e-7. Of x, sixteenths are looked up, and the rest goes into a
// polynomial fitted to a sixteenth. Few of its steps are products: while AMX is at work, processors have half as many of
// those a cycle, but as many sums and look-ups.
static inline __m512 exp2_16(__m512 x) {
    const __m512 powers = _mm512_setr_ps(1.0f, 1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
                                         1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                                         1.68179286f, 1.75625217f, 1.8340081f, 1.91520655f);
    const __m512 shift = _mm512_set1_ps(786432);  // 3 2^18: numbers near it are a sixteenth apart
    const __m512 moved = _mm512_add_ps(x, shift), near = _mm512_sub_ps(moved, shift), rest = _mm512_sub_ps(x, near);
    const __m512 power = _mm512_permutexvar_ps(_mm512_castps_si512(moved), powers);  // by the last four bits
    const __m512 slope = _mm512_fmadd_ps(rest, _mm512_set1_ps(0.24022655f), _mm512_set1_ps(0.6931877f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(_mm512_mul_ps(power, rest), slope, power), near);  // 2^floor(near)
}

// Numbers that are half of bf16's last bit further from zero: what is cut off then is what rounding cuts off, but for
// ties, which go away from zero.
static inline __m512i raised(__m512 x) {
    return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}

// Words of two raised numbers each, cut off. Cheaper than the instructions that convert.
static inline __m512i join(__m512i low, __m512i high) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(int(0xffff0000)), high, _mm512_srli_epi32(low, 16), 0xca);
}
static inline __m512i join(__m512 low, __m512 high) { return join(raised(low), raised(high)); }

// The lower, and the higher, numbers of words.
static inline __m512 lower(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
static inline __m512 higher(__m512i words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000))));
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

// Two rows of 16 numbers, number by number beside each other: what a summed dimension of rows wants.
static inline __m512i beside(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// After stores past the caches (`_mm512_stream_*`): nothing that this thread says later is seen before them. The threads'
// own meeting points do not promise it of such stores.
static inline void settle_streamed() { _mm_sfence(); }

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

template <typename T>
static Buffer<T> buffer(int64_t count) {
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
}
