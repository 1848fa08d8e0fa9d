// The products of products.h with AMX: 32 x 32 sums in four tiles. 32 rows of the left operand, packed, stay in the first
// cache while panels of the right one pass by that stay in the second; long sums are made in parts for it.

#pragma once
#include "products.h"

constexpr int64_t KEPT = 1 << 20;  // bytes of panels that stay in the second cache
constexpr int64_t DEEPEST = 256;   // pairs of 32 rows that stay in the first cache
constexpr int64_t SUMMED = 512;    // rows whose sums, made in parts, stay in the second cache
constexpr int64_t STRIP = 256;     // columns of G that are packed at a time

// What becomes of the sums of a product: they wait, and are rounded and stored while the next ones are made.
struct Rounded {
    static constexpr int64_t PANELS = 1;  // that belong together
    Bf16* c;
    int64_t c_row;
    const float* from = nullptr;
    Bf16* to = nullptr;
    int64_t rows = 0;

    // Sums of so many rows, from a row and a column of C on. Those before must have been stored.
    void take(const float* sums, int64_t row, int64_t column, int64_t count) {
        from = sums, to = c + row * c_row + column, rows = count;
    }
    // Up to `count` rows of those that wait.
    inline __attribute__((always_inline)) void store(int64_t count) {
        for (count = std::min(count, rows), rows -= count; count; --count, from += SIDE, to += c_row)
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(from + 16), _mm512_load_ps(from)));
    }
};

// Fetches rows ahead of their use, line by line.
struct Ahead {
    const Bf16* from;
    int64_t row, rows, columns, at = 0;

    inline __attribute__((always_inline)) void fetch() {
        if (!rows) return;
        __builtin_prefetch(from + at, 0, 2);
        if ((at += 32) >= columns) at = 0, from += row, --rows;
    }
};

// 32 rows as a left operand: squares of 32 numbers, so many bytes from one to the next, and from row to row.
struct Block {
    const void* at;
    int64_t next, row;
    static Block packed(const Word* at) { return {at, SQUARE * sizeof(Word), DEPTH * sizeof(Word)}; }
    static Block in_place(const Bf16* at, int64_t row) { return {at, SIDE * sizeof(Bf16), row * int64_t(sizeof(Bf16))}; }
};

// Adds to the tiles the product of a block of rows and a panel; `meanwhile` is called after every 32 numbers.
template <typename Meanwhile>
static inline __attribute__((always_inline)) void add_products(int64_t pairs, const Block& block, const Word* panel,
                                                               Meanwhile meanwhile) {
    const char* left = static_cast<const char*>(block.at);
    for (int64_t p = 0; p < pairs; p += DEPTH, left += block.next) {
        add_product(left, block.row, panel + p * PANEL);
        meanwhile();
    }
}

// Whether 32 rows of so many pairs stay in the first cache where they lie: whole lines, that spread over its sets.
static inline bool stays(const Bf16* rows, int64_t row, int64_t pairs) {
    constexpr int64_t LINE = 32, SETS = 64, WAYS = 10;  // numbers; of 12, or more: some for the other operand and sums
    if (reinterpret_cast<uintptr_t>(rows) % 64 || row % LINE) return false;
    int64_t taken[SETS] = {};
    for (int64_t r = 0; r < SIDE; ++r)
        for (int64_t i = 0; i < 2 * pairs; i += LINE)
            if (++taken[(r * row + i) / LINE % SETS] > WAYS) return false;
    return true;
}

// Up to 32 rows as a left operand: tiles of 16 rows of 16 words, two and two. Those that are wanting are zero.
static inline void pack_block(int64_t rows, int64_t pairs, const Bf16* from, int64_t row, Word* block) {
    for (int64_t p = 0; p < pairs; p += DEPTH, block += SQUARE)
        for (int64_t r = 0; r < SIDE; ++r) {
            __m512i found = r < rows ? _mm512_loadu_si512(from + r * row + 2 * p) : _mm512_setzero_si512();
            _mm512_store_si512(block + r * DEPTH, found);
        }
}

// `whole` in parts of at most `most`, all multiples of `unit`: how large they are.
static inline int64_t even_parts(int64_t whole, int64_t most, int64_t unit) {
    const int64_t parts = std::max<int64_t>(1, (whole + most - 1) / most), of = (whole + unit - 1) / unit;
    return (of + parts - 1) / parts * unit;
}

// Columns, in units of so many panels, whose panels of so many pairs stay in the second cache.
static inline int64_t columns_kept(int64_t columns, int64_t pairs, int64_t panels = 1) {
    return even_parts(columns, std::max<int64_t>(PANEL, KEPT / (pairs * int64_t(sizeof(Word)))), panels * PANEL);
}

// A (rows x 2 pairs) times panels, by this thread alone; `finish` gets what comes of it.
template <typename Finish>
static void multiply_rows(int64_t rows, int64_t columns, int64_t pairs, const Bf16* a, int64_t a_row,
                          const Word* panels, Finish finish) {
    const int64_t deep = even_parts(pairs, DEEPEST, DEPTH), group = columns_kept(columns, deep, Finish::PANELS);
    const int64_t steps = Finish::PANELS * deep / DEPTH, at_once = (SIDE + steps - 1) / steps;  // rows to store after each
    const int64_t most = deep < pairs ? SUMMED : rows;
    const bool in_place = stays(a, a_row, deep);
    auto packed = buffer<Word>(SIDE * deep);
    auto sums = buffer<float>(deep < pairs ? most * group : 0);
    alignas(64) float finished[2 * Finish::PANELS][SUMS];
    int turn = 0;
    for (int64_t left = 0; left < columns; left += group)
        for (int64_t begin = 0; begin < rows; begin += most)
            for (int64_t p = 0; p < pairs; p += deep) {
                const int64_t here = std::min(deep, pairs - p), end = std::min(rows, begin + most);
                float* sum = sums.get();
                for (int64_t r = begin; r < end; r += SIDE) {
                    const int64_t there = std::min<int64_t>(SIDE, end - r);
                    const Bf16* from = a + r * a_row + 2 * p;
                    Block block = Block::in_place(from, a_row);
                    if (!in_place || there < SIDE)
                        pack_block(there, here, from, a_row, packed.get()), block = Block::packed(packed.get());
                    Ahead ahead{from + SIDE * a_row, a_row, std::min<int64_t>(SIDE, end - r - there), 2 * here};
                    for (int64_t j = left; j < std::min(columns, left + group); j += PANEL, sum += SIDE * PANEL) {
                        const float* soon = sum + SIDE * PANEL;  // sums that are added to next
                        if (p)
                            load_tiles(sum, PANEL);
                        else
                            zero_tiles();
                        add_products(here, block, panels + j * pairs + p * PANEL, [&] {
                            finish.store(at_once);
                            ahead.fetch();
                            ahead.fetch();
                            if (deep == pairs) return;
                            for (const float* end = soon + 64; soon < end; soon += 16) __builtin_prefetch(soon, 1);
                        });
                        if (p + here < pairs) {
                            store_tiles(sum, PANEL);
                            continue;
                        }
                        if ((j / PANEL + 1) % Finish::PANELS == 0) finish.store(SIDE);
                        store_tiles(finished[turn], PANEL);
                        finish.take(finished[turn], r, j, there);
                        turn = (turn + 1) % int(2 * Finish::PANELS);
                    }
                }
            }
    finish.store(SIDE);
}

// C (rows x columns, bf16) = A (rows x 2 pairs) times panels, by this thread alone.
static void multiply_rows(int64_t rows, int64_t columns, int64_t pairs, const Bf16* a, int64_t a_row,
                          const Word* panels, Bf16* c, int64_t c_row) {
    multiply_rows(rows, columns, pairs, a, a_row, panels, Rounded{c, c_row});
}

// Sixteen numbers of each of 32 rows, turned: sixteen rows of 32 numbers.
static inline void turn_tile(const Bf16* from, int64_t row, Word* tile) {
    for (int half = 0; half < 2; ++half, from += 8, tile += 8 * DEPTH) {
        __m512i x[8], y[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {  // eight numbers of rows i, 8 + i, 16 + i and 24 + i
            auto eight = [&](int lane) { return _mm_loadu_si128((const __m128i*)(from + (8 * lane + i) * row)); };
            x[i] = _mm512_castsi128_si512(eight(0));
            x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x00f0, eight(1));
            x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x0f00, eight(2));
            x[i] = _mm512_mask_broadcast_i32x4(x[i], 0xf000, eight(3));
        }
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
            y[i] = _mm512_unpacklo_epi16(x[i], x[i + 1]);
            y[i + 1] = _mm512_unpackhi_epi16(x[i], x[i + 1]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            x[i] = _mm512_unpacklo_epi32(y[i], y[i + 2]);
            x[i + 1] = _mm512_unpackhi_epi32(y[i], y[i + 2]);
            x[i + 2] = _mm512_unpacklo_epi32(y[i + 1], y[i + 3]);
            x[i + 3] = _mm512_unpackhi_epi32(y[i + 1], y[i + 3]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            _mm512_store_si512(tile + 2 * i * DEPTH, _mm512_unpacklo_epi64(x[i], x[i + 4]));
            _mm512_store_si512(tile + (2 * i + 1) * DEPTH, _mm512_unpackhi_epi64(x[i], x[i + 4]));
        }
    }
}

// `columns` columns of `rows` rows as left operands of the turned matrix, of 32 columns each.
static inline void pack_turned_blocks(int64_t rows, int64_t columns, const Bf16* from, int64_t row, Word* blocks) {
    alignas(64) Bf16 last[32 * SIDE] = {};
    const int64_t pairs = pairs_of(rows);
    for (int64_t t = 0; t < rows; t += 32)
        for (int64_t c = 0; c < columns; c += SIDE) {
            const Bf16* at = from + t * row + c;
            Word* block = blocks + c * pairs + t / 2 * SIDE;
            if (t + 32 <= rows) {
                turn_tile(at, row, block);
                turn_tile(at + 16, row, block + 256);
                continue;
            }
            for (int64_t r = 0; r < rows - t; ++r) std::memcpy(last + r * SIDE, at + r * row, SIDE * sizeof(Bf16));
            turn_tile(last, SIDE, block);
            turn_tile(last + 16, SIDE, block + 256);
        }
}

// The rows and columns of a product that fall to this thread: threads in a grid in which they pack the least, which they
// do each for itself; turning numbers takes about twice as long as laying them beside each other.
struct Part {
    Share rows, columns;

    static Part of_thread(int64_t rows, int64_t columns) {
        const int64_t all = omp_get_num_threads(), me = omp_get_thread_num();
        int64_t down = 1, least = INT64_MAX;
        for (int64_t one = 1; one <= all; ++one)
            if (int64_t packed = 2 * rows / one + columns / (all / one); all % one == 0 && packed < least)
                down = one, least = packed;
        return {Share(rows, SIDE, me % down, down), Share(columns, PANEL, me / down, all / down)};
    }
};

// None: each thread has its own.
static inline Buffer<Word> turned_room(int64_t) { return {}; }

// C (outer x inner, fp32) (+)= G' X of G (tokens x outer) and X (tokens x inner); both sides multiples of 32.
static void add_turned_products(int64_t tokens, int64_t outer, int64_t inner, const Bf16* g, int64_t g_row,
                                const Bf16* x, int64_t x_row, float* c, bool add, Word*) {
    const Part own = Part::of_thread(outer, inner);
    const int64_t width = own.columns.last - own.columns.first, longest = pairs_of(std::min(TOKENS, tokens));
    const int64_t group = columns_kept(width, longest);
    auto blocks = buffer<Word>(longest * STRIP), panels = buffer<Word>(longest * width);
    for (int64_t begin = 0; begin < tokens; begin += TOKENS, add = true) {
        const int64_t count = std::min(TOKENS, tokens - begin), pairs = pairs_of(count);
        pack_pairs(0, pairs, count, width, x + begin * x_row + own.columns.first, x_row, 0, pairs, panels.get());
        for (int64_t first = own.rows.first; first < own.rows.last; first += STRIP) {
            const int64_t last = std::min(own.rows.last, first + STRIP);
            pack_turned_blocks(count, last - first, g + begin * g_row + first, g_row, blocks.get());
            for (int64_t left = 0; left < width; left += group)
                for (int64_t r = first; r < last; r += SIDE)
                    for (int64_t j = left; j < std::min(width, left + group); j += PANEL) {
                        float* to = c + r * inner + own.columns.first + j;
                        const char* next = reinterpret_cast<const char*>(to + PANEL);
                        if (add)
                            load_tiles(to, inner);
                        else
                            zero_tiles();
                        int64_t line = 0;
                        add_products(pairs, Block::packed(blocks.get() + (r - first) * pairs), panels.get() + j * pairs, [&] {
                            // where the next sums will go
                            for (const int64_t end = std::min<int64_t>(2 * SIDE, line + 4); line < end; ++line)
                                __builtin_prefetch(next + line / 2 * inner * 4 + line % 2 * 64, 1);
                        });
                        store_tiles(to, inner);
                    }
        }
    }
#pragma omp barrier
}
