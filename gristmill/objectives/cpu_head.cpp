// From a chunk's logits to its losses and the gradient of their sum, in place: three passes over a row that stays in
// the caches. And the whole head, where products and these passes take turns.

#include <cmath>

#include "products.h"

namespace {

constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

inline __mmask16 left(int64_t at, int64_t size) { return size - at >= 16 ? 0xffff : (1u << (size - at)) - 1; }

inline __m256i load(const Bf16* row, __mmask16 there) { return _mm256_maskz_loadu_epi16(there, row); }

// One row of logits, as `head_rows`; `powers` has room for as many numbers.
void head_row(Bf16* row, int64_t size, int64_t target, float& loss, int64_t& first, bool slopes, float* powers) {
    const __m512 unit = _mm512_set1_ps(LOG2E), lowest = _mm512_set1_ps(-INFINITY);
    __m512 tops[2] = {lowest, lowest};
    for (int64_t i = 0, turn = 0; i < size; i += 16, turn ^= 1) {
        __mmask16 there = left(i, size);
        tops[turn] = _mm512_mask_max_ps(tops[turn], there, tops[turn], wide16(load(row + i, there)));
    }
    const float top = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1])), wanted = wide(row[target]);
    const __m512 largest = _mm512_set1_ps(top);
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0, turn = 0; i < size; i += 16, turn ^= 1) {
        __mmask16 there = left(i, size);
        // The difference first: of products, what is rounded off could exceed 1 where logits are huge.
        __m512 one = exp2_16(_mm512_mul_ps(_mm512_sub_ps(wide16(load(row + i, there)), largest), unit));
        sums[turn] = _mm512_mask_add_ps(sums[turn], there, sums[turn], one);
        if (slopes) _mm512_mask_storeu_ps(powers + i, there, one);
    }
    const float sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])), log_sum = std::log2(sum);
    loss = (top - wanted) + log_sum * LN2;
    bool hit = wanted == top;
    for (int64_t i = 0; hit && i < target; ++i) hit = wide(row[i]) != top;
    first = hit;
    if (!slopes) return;
    const __m512 share = _mm512_set1_ps(1 / sum);
    const float own = powers[target] / sum;
    for (int64_t i = 0; i < size; i += 16) {
        __mmask16 there = left(i, size);
        __m512 one = _mm512_maskz_loadu_ps(there, powers + i);
        _mm256_mask_storeu_epi16(row + i, there, narrow16(_mm512_mul_ps(one, share)));
    }
    alignas(32) Bf16 slope[16];
    _mm256_store_si256((__m256i*)slope, narrow16(_mm512_set1_ps(own - 1)));
    row[target] = slope[0];
}

}  // namespace

// logits (rows, size), with `step` numbers from row to row; targets (rows,). Writes -log softmax(logits)[target] to
// `losses` and whether the target is the first of the largest to `hits`; with `slopes`, logits become the gradient.
extern "C" void head_rows(Bf16* logits, const int64_t* targets, float* losses, int64_t* hits, int64_t rows,
                          int64_t size, int64_t step, int64_t slopes) {
#pragma omp parallel
    {
        auto powers = buffer<float>(slopes ? size : 0);
        const Share own(rows);
        for (int64_t r = own.first; r < own.last; ++r)
            head_row(logits + r * step, size, targets[r], losses[r], hits[r], slopes != 0, powers.get());
    }
}

// The same from hidden states (tokens, inner) and the head (size, inner), in chunks; and the gradients of the sum of the
// losses by the states and, in fp32, by the head; either may be null.
extern "C" void head_loss(const Bf16* hidden, int64_t hidden_row, int64_t tokens, int64_t inner, const void* head,
                          int64_t wide, int64_t size, const int64_t* targets, int64_t chunk, float* losses,
                          int64_t* hits, Bf16* hidden_slope, float* head_slope) {
    const Weight weight{head, size, inner, wide != 0};
    const int64_t step = size + PANEL;  // more than the size: see SAME_CACHE_SET
    const bool slopes = hidden_slope || head_slope;
    auto logits = buffer<Bf16>(std::min(chunk, tokens) * step);
    auto panels = buffer<Word>(size * inner / 2), turned = buffer<Word>(hidden_slope ? size * inner / 2 : 0);
    auto room = turned_room(inner);
#pragma omp parallel
    {
        Tiles tiles;
        auto powers = buffer<float>(slopes ? size : 0);
        weight.pack_turned_to(0, panels.get());
        if (hidden_slope) weight.pack_rows_to(0, size / 2, turned.get());
        for (int64_t begin = 0; begin < tokens; begin += chunk) {
            const int64_t count = std::min(chunk, tokens - begin);
            const Share own = rows_of_thread(count);
            for (int64_t first = own.first; first < own.last; first += ROWS) {
                const int64_t rows = std::min(ROWS, own.last - first), at = begin + first;
                Bf16* block = logits.get() + first * step;
                multiply_rows(rows, size, inner / 2, hidden + at * hidden_row, hidden_row, panels.get(), block, step);
                for (int64_t r = 0; r < rows; ++r)
                    head_row(block + r * step, size, targets[at + r], losses[at + r], hits[at + r], slopes,
                             powers.get());
                if (hidden_slope)
                    multiply_rows(rows, inner, size / 2, block, step, turned.get(), hidden_slope + at * inner, inner);
            }
#pragma omp barrier
            if (head_slope)
                add_turned_products(count, size, inner, logits.get(), step, hidden + begin * hidden_row, hidden_row,
                                    head_slope, begin > 0, room.get());
        }
    }
}
