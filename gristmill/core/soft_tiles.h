// What multiply_amx.h needs of the tiles, with AVX512-BF16: for tests of all that is built on them, where there is no AMX.

#pragma once
#include "bf16.h"

struct SoftTile {
    alignas(64) Word rows[16][16];
};
static thread_local SoftTile soft_tiles[8];

static inline void soft_load(int tile, const void* from, int64_t row) {
    for (int r = 0; r < 16; ++r) std::memcpy(soft_tiles[tile].rows[r], static_cast<const char*>(from) + r * row, 64);
}
static inline void soft_store(int tile, void* to, int64_t row) {
    for (int r = 0; r < 16; ++r) std::memcpy(static_cast<char*>(to) + r * row, soft_tiles[tile].rows[r], 64);
}
static inline void soft_multiply(int sums, int left, int right) {
    for (int r = 0; r < 16; ++r) {
        __m512 sum = _mm512_load_ps(soft_tiles[sums].rows[r]);
        for (int p = 0; p < 16; ++p)
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(int(soft_tiles[left].rows[r][p])),
                                   (__m512bh)_mm512_load_si512(soft_tiles[right].rows[p]));
        _mm512_store_ps(soft_tiles[sums].rows[r], sum);
    }
}

#define TILE_ZERO(tile) std::memset(&soft_tiles[tile], 0, sizeof(SoftTile))
#define TILE_LOAD(tile, from, row) soft_load(tile, from, row)
#define TILE_LOAD_ONCE(tile, from, row) soft_load(tile, from, row)
#define TILE_STORE(tile, to, row) soft_store(tile, to, row)
#define TILE_MULTIPLY(sums, left, right) soft_multiply(sums, left, right)

struct Tiles {
    Tiles() {}  // nothing: the tiles above are this thread's
};
