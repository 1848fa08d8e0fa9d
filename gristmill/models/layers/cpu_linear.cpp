// Linear layers, and feed-forward layers with a gate, on bf16 rows: forward, and all gradients.

#include <numeric>

#include "products.h"

namespace {

constexpr float LOG2E = 1.4426950408889634f;

// Matrices that are applied to the same rows, their outputs side by side.
struct Joined {
    const void* const* at;
    const int64_t* outers;
    int64_t count, inner;
    bool wide;

    int64_t outer() const { return std::accumulate(outers, outers + count, int64_t(0)); }
    template <typename Use>
    void each(Use use) const {
        for (int64_t i = 0, first = 0; i < count; first += outers[i++]) use(Weight{at[i], outers[i], inner, wide}, first);
    }
    void pack_turned_to(Word* panels) const {
        each([&](const Weight& weight, int64_t first) { weight.pack_turned_to(first, panels); });
    }
    void pack_rows_to(Word* panels) const {
        const int64_t pairs = outer() / 2;
        each([&](const Weight& weight, int64_t first) { weight.pack_rows_to(first / 2, pairs, panels); });
    }
};

inline __m512 sigmoid(__m512 x) {
    // Beyond these limits the result is 0 or 1 to fp32; a NaN is the second operand and stays.
    __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-LOG2E));
    power = _mm512_max_ps(_mm512_set1_ps(-126), _mm512_min_ps(_mm512_set1_ps(126), power));
    __m512 below = _mm512_add_ps(_mm512_set1_ps(1), exp2_16(power)), found = _mm512_rcp14_ps(below);
    return _mm512_mul_ps(found, _mm512_fnmadd_ps(below, found, _mm512_set1_ps(2)));  // a step of Newton's: all bits
}

// silu(gate) up, sixteen numbers of it.
inline __m512 gated16(__m512 gate, __m512 up) { return _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up); }

// From the gradient of silu(gate) up, (rows x width), to those of both halves; and silu(gate) up once more, in its place.
void gated_slopes(int64_t rows, int64_t width, const Bf16* halves, Bf16* slope, Bf16* half_slopes) {
    const __m512 one = _mm512_set1_ps(1);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; i += 16) {
            const int64_t at = 2 * r * width + i;
            __m512 gate = load16(halves + at), up = load16(halves + at + width), own = load16(slope + r * width + i);
            __m512 open = sigmoid(gate), passed = _mm512_mul_ps(gate, open);
            __m512 steep = _mm512_mul_ps(open, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, open), one));
            store16(half_slopes + at, _mm512_mul_ps(_mm512_mul_ps(own, up), steep));
            store16(half_slopes + at + width, _mm512_mul_ps(own, passed));
            store16(slope + r * width + i, _mm512_mul_ps(passed, up));
        }
}

#ifdef TILES
// Sums of gate and up, panel about panel -> both, rounded (rows x 2 width), and silu(gate) up (rows x width).
struct GatedSums {
    static constexpr int64_t PANELS = 2;
    int64_t width;
    Bf16 *halves, *hidden;
    const float *gates = nullptr, *from = nullptr;
    Bf16 *half_to = nullptr, *to = nullptr;
    int64_t rows = 0;

    void take(const float* sums, int64_t row, int64_t column, int64_t count) {
        if (column / PANEL % 2 == 0) {
            gates = sums;
            return;
        }
        const int64_t at = column / (2 * PANEL) * PANEL;
        from = gates, rows = count, half_to = halves + 2 * row * width + at, to = hidden + row * width + at;
    }
    inline __attribute__((always_inline)) void store(int64_t count) {
        for (count = std::min(count, rows), rows -= count; count; --count) {
            __m512 gate[2], up[2];
            for (int i = 0; i < 2; ++i) gate[i] = _mm512_load_ps(from + 16 * i), up[i] = _mm512_load_ps(from + SUMS + 16 * i);
            _mm512_stream_si512((__m512i*)half_to, (__m512i)_mm512_cvtne2ps_pbh(gate[1], gate[0]));
            _mm512_stream_si512((__m512i*)(half_to + width), (__m512i)_mm512_cvtne2ps_pbh(up[1], up[0]));
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(gated16(gate[1], up[1]), gated16(gate[0], up[0])));
            from += SIDE, half_to += 2 * width, to += width;
        }
    }
};

constexpr int64_t HALVES_APART = 2;  // panels of gate and up lie in turn

// x (rows x dim) -> gate and up side by side, and silu(gate) up.
void gate_rows(int64_t rows, int64_t dim, int64_t width, const Bf16* x, int64_t x_row, const Word* panels, Bf16* halves,
               Bf16* hidden) {
    multiply_rows(rows, 2 * width, dim / 2, x, x_row, panels, GatedSums{width, halves, hidden});
    settle_streamed();
}
#else
constexpr int64_t HALVES_APART = 1;

void gate_rows(int64_t rows, int64_t dim, int64_t width, const Bf16* x, int64_t x_row, const Word* panels, Bf16* halves,
               Bf16* hidden) {
    multiply_rows(rows, 2 * width, dim / 2, x, x_row, panels, halves, 2 * width);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; i += 16) {
            const Bf16* from = halves + 2 * r * width + i;
            store16(hidden + r * width + i, gated16(load16(from), load16(from + width)));
        }
}
#endif

}  // namespace

// x (tokens, inner) times each weight (outer, inner) turned, side by side: y (tokens, sum of outers).
extern "C" void linear_forward(const Bf16* x, int64_t x_row, int64_t tokens, int64_t inner, const void* const* weights,
                               const int64_t* outers, int64_t count, int64_t wide, Bf16* y) {
    const Joined joined{weights, outers, count, inner, wide != 0};
    const int64_t outer = joined.outer();
    auto panels = buffer<Word>(outer * inner / 2);
#pragma omp parallel
    {
        Tiles tiles;
        joined.pack_turned_to(panels.get());
        Share own = rows_of_thread(tokens);
        multiply_rows(own.last - own.first, outer, inner / 2, x + own.first * x_row, x_row, panels.get(),
                      y + own.first * outer, outer);
    }
}

// slope (tokens, sum of outers), the gradient of y -> those of x and of the weights one below the other (sum of outers,
// inner) in fp32; either may be null.
extern "C" void linear_backward(const Bf16* slope, int64_t slope_row, const Bf16* x, int64_t x_row, int64_t tokens,
                                int64_t inner, const void* const* weights, const int64_t* outers, int64_t count,
                                int64_t wide, Bf16* x_slope, float* weight_slope) {
    const Joined joined{weights, outers, count, inner, wide != 0};
    const int64_t outer = joined.outer();
    auto panels = buffer<Word>(x_slope ? outer * inner / 2 : 0);
    auto room = turned_room(inner);
#pragma omp parallel
    {
        Tiles tiles;
        if (x_slope) joined.pack_rows_to(panels.get());
        for (int64_t begin = 0; begin < tokens; begin += BLOCK_TOKENS) {
            const int64_t count = std::min(BLOCK_TOKENS, tokens - begin);
            if (x_slope) {
                const Share own = rows_of_thread(count);
                const int64_t first = begin + own.first;
                multiply_rows(own.last - own.first, inner, outer / 2, slope + first * slope_row, slope_row, panels.get(),
                              x_slope + first * inner, inner);
            }
            if (weight_slope)
                add_turned_products(count, outer, inner, slope + begin * slope_row, slope_row, x + begin * x_row, x_row,
                                    weight_slope, begin > 0, room.get());
        }
    }
}

// weights: gate and up (width, dim), down (dim, width). halves (tokens, 2 width): what gate and up give, kept for the
// gradients. y (tokens, dim).
extern "C" void gated_forward(const Bf16* x, int64_t x_row, int64_t tokens, int64_t dim, int64_t width,
                              const void* const* weights, int64_t wide, Bf16* halves, Bf16* y) {
    const Weight gate{weights[0], width, dim, wide != 0}, up{weights[1], width, dim, wide != 0};
    const Weight outward{weights[2], dim, width, wide != 0};
    auto panels = buffer<Word>(width * dim), outward_panels = buffer<Word>(width * dim / 2);
#pragma omp parallel
    {
        Tiles tiles;
        gate.pack_turned_to(0, panels.get(), HALVES_APART);
        up.pack_turned_to(HALVES_APART == 1 ? width : PANEL, panels.get(), HALVES_APART);
        outward.pack_turned_to(0, outward_panels.get());
        auto hidden = buffer<Bf16>(ROWS * width);
        const Share own = rows_of_thread(tokens);
        for (int64_t r = own.first; r < own.last; r += ROWS) {
            const int64_t rows = std::min(ROWS, own.last - r);
            gate_rows(rows, dim, width, x + r * x_row, x_row, panels.get(), halves + 2 * r * width, hidden.get());
            multiply_rows(rows, dim, width / 2, hidden.get(), width, outward_panels.get(), y + r * dim, dim);
        }
    }
}

// slope (tokens, dim), the gradient of y -> those of x (or null), of gate and up one below the other (2 width, dim), and
// of down (dim, width); the latter in fp32.
extern "C" void gated_backward(const Bf16* slope, int64_t slope_row, const Bf16* x, int64_t x_row, const Bf16* halves,
                               int64_t tokens, int64_t dim, int64_t width, const void* const* weights, int64_t wide,
                               Bf16* x_slope, float* inward_slope, float* outward_slope) {
    const int64_t outers[] = {width, width};
    const Joined inward{weights, outers, 2, dim, wide != 0};
    const Weight outward{weights[2], dim, width, wide != 0};
    auto panels = buffer<Word>(width * dim), outward_panels = buffer<Word>(width * dim / 2);
    const int64_t longest = std::min(BLOCK_TOKENS, tokens);
    auto hidden = buffer<Bf16>(longest * width), half_slopes = buffer<Bf16>(2 * longest * width);
    auto room = turned_room(std::max(dim, width));
#pragma omp parallel
    {
        Tiles tiles;
        outward.pack_rows_to(0, dim / 2, outward_panels.get());
        inward.pack_rows_to(panels.get());
        for (int64_t begin = 0; begin < tokens; begin += BLOCK_TOKENS) {
            const int64_t count = std::min(BLOCK_TOKENS, tokens - begin);
            const Share own = rows_of_thread(count);
            for (int64_t first = own.first; first < own.last; first += ROWS) {
                const int64_t rows = std::min(ROWS, own.last - first), r = begin + first;
                Bf16 *block = hidden.get() + first * width, *half_block = half_slopes.get() + 2 * first * width;
                multiply_rows(rows, width, dim / 2, slope + r * slope_row, slope_row, outward_panels.get(), block, width);
                gated_slopes(rows, width, halves + 2 * r * width, block, half_block);
                if (x_slope)
                    multiply_rows(rows, dim, width, half_block, 2 * width, panels.get(), x_slope + r * dim, dim);
            }
#pragma omp barrier
            add_turned_products(count, 2 * width, dim, half_slopes.get(), 2 * width, x + begin * x_row, x_row,
                                inward_slope, begin > 0, room.get());
            add_turned_products(count, dim, width, slope + begin * slope_row, slope_row, hidden.get(), width,
                                outward_slope, begin > 0, room.get());
        }
    }
}
