// For test_cpu_memory.py, before a kernel's own text: what reads and writes memory by instructions that AddressSanitizer
// does not follow (masked ones, and stores past the caches) does so number by number, or by a store that it follows.

#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

typedef uint32_t __attribute__((may_alias)) Watched32;
typedef uint16_t __attribute__((may_alias)) Watched16;

template <typename Number, typename Vector>
static inline Vector watched_load(uint64_t mask, const void* from) {
    Number lanes[sizeof(Vector) / sizeof(Number)] = {};
    for (uint64_t i = 0; i < sizeof(Vector) / sizeof(Number); ++i)
        if (mask >> i & 1) lanes[i] = static_cast<const Number*>(from)[i];
    Vector found;
    std::memcpy(&found, lanes, sizeof(Vector));
    return found;
}

template <typename Number, typename Vector>
static inline void watched_store(void* to, uint64_t mask, Vector given) {
    Number lanes[sizeof(Vector) / sizeof(Number)];
    std::memcpy(lanes, &given, sizeof(Vector));
    for (uint64_t i = 0; i < sizeof(Vector) / sizeof(Number); ++i)
        if (mask >> i & 1) static_cast<Number*>(to)[i] = lanes[i];
}

#define _mm512_stream_ps(to, given) _mm512_store_ps(to, given)
#define _mm512_stream_si512(to, given) _mm512_store_si512(to, given)
#define _mm512_maskz_loadu_ps(mask, from) (watched_load<Watched32, __m512>(mask, from))
#define _mm512_maskz_loadu_epi32(mask, from) (watched_load<Watched32, __m512i>(mask, from))
#define _mm256_maskz_loadu_epi16(mask, from) (watched_load<Watched16, __m256i>(mask, from))
#define _mm512_mask_storeu_ps(to, mask, given) (watched_store<Watched32, __m512>(to, mask, given))
#define _mm512_mask_storeu_epi32(to, mask, given) (watched_store<Watched32, __m512i>(to, mask, given))
#define _mm256_mask_storeu_epi16(to, mask, given) (watched_store<Watched16, __m256i>(to, mask, given))
