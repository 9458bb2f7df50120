// Block-sparse attention on a CPU in float32: the engine behind kernel="native".
//
// Keys are packed once into panels of a vector's width, transposed, so that one vector holds one feature
// of a panel's keys. A tile of up to 32 queries then meets only the panels that the decision keeps, with an
// online softmax over chunks of panels (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention,
// arXiv 2205.14135). Knows nothing of gates, rules or PyTorch; kernels/native.py checks every
// argument.

#include "vectors.h"

namespace {

using namespace saa;

constexpr int PAIR_ROWS = 16;      // queries per tile where single pairs are decided
constexpr int CHUNK = 512 / LANES; // panels per softmax step: 64 KiB of scores

struct Problem {
    const float *q, *k, *v;
    float *out;
    int64_t q_step[3], k_step[3], v_step[3], out_step[3]; // floats per batch item, head, position
    int64_t B, H, G, Q, K, D;
    const uint8_t *keep; // [B, H, M, S]
    int64_t M, S, bq, bk;
    const int32_t *first, *last; // [Q] or [B, Q]: the keys that a query may see
    int64_t seen_step;           // Q, or 0 if all batch items share them
    float scale;
};

struct Scratch {
    std::vector<float> query, score, mixed;
    std::vector<int32_t> panels;
    explicit Scratch(const Problem &p)
        : query(p.D * ROWS), score(CHUNK * ROWS * LANES), mixed(ROWS * p.D),
          panels(panels_for(p.K)) {}
};

// mixed[row][d..] += weight[row] . value for four rows and W vectors of features.
template <int W>
inline void mix(const Problem &p, const float *weight, const float *value, int64_t count,
                float *mixed) {
    Vector sums[4][W];
    for (int r = 0; r < 4; ++r)
        for (int w = 0; w < W; ++w) sums[r][w] = load(mixed + r * p.D + w * LANES);
    for (int64_t j = 0; j < count; ++j) {
        const float *row = value + j * p.v_step[2];
        for (int w = 0; w < W; ++w) {
            const Vector x = load(row + w * LANES);
            for (int r = 0; r < 4; ++r) sums[r][w] += weight[r * LANES + j] * x;
        }
    }
    for (int r = 0; r < 4; ++r)
        for (int w = 0; w < W; ++w) store(mixed + r * p.D + w * LANES, sums[r][w]);
}

// Panels of which the tile keeps anything, ascending.
int64_t kept_panels(const Problem &p, const uint8_t *keep, int64_t row, int64_t rows, bool pairs,
                    int32_t *panels) {
    const int64_t total = panels_for(p.K);
    int64_t count = 0;
    if (!pairs) {
        const uint8_t *line = keep + row / p.bq * p.S;
        const int64_t per_block = p.bk / LANES;
        for (int64_t s = 0; s < p.S; ++s)
            if (line[s])
                for (int64_t i = s * per_block; i < std::min((s + 1) * per_block, total); ++i)
                    panels[count++] = int32_t(i);
        return count;
    }
    for (int64_t i = 0; i < total; ++i) {
        uint8_t any = 0;
        const int64_t width = std::min<int64_t>(LANES, p.K - i * LANES);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < width; ++j) any |= keep[(row + r) * p.S + i * LANES + j];
        if (any) panels[count++] = int32_t(i);
    }
    return count;
}

void tile(const Problem &p, const float *packed, int64_t b, int64_t h, int64_t row, int64_t rows,
          Scratch &work) {
    const int64_t D = p.D, g = h / (p.H / p.G), strips = (rows + STRIP - 1) / STRIP;
    const bool pairs = p.bk == 1;
    const uint8_t *keep = p.keep + (b * p.H + h) * p.M * p.S;
    const float *keys = packed + (b * p.G + g) * (panels_for(p.K)) * LANES * D;
    const float *values = p.v + b * p.v_step[0] + g * p.v_step[1];
    const float *queries = p.q + b * p.q_step[0] + h * p.q_step[1];
    const int32_t *first = p.first + b * p.seen_step, *last = p.last + b * p.seen_step;
    float *query = work.query.data(), *score = work.score.data(), *mixed = work.mixed.data();
    int32_t *panels = work.panels.data();
    const int64_t count = kept_panels(p, keep, row, rows, pairs, panels);

    float top[ROWS], total[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        top[r] = FLOOR;
        total[r] = 0;
        for (int64_t d = 0; d < D; ++d)
            query[d * ROWS + r] = r < rows ? queries[(row + r) * p.q_step[2] + d] * p.scale : 0.0f;
    }
    std::memset(mixed, 0, sizeof(float) * ROWS * D);
    int32_t latest_first = 0, earliest_last = INT32_MAX; // keys between them: seen by every row
    for (int64_t r = 0; r < rows; ++r) {
        latest_first = std::max(latest_first, first[row + r]);
        earliest_last = std::min(earliest_last, last[row + r]);
    }
    Integers lane;
    for (int i = 0; i < LANES; ++i) lane[i] = i;

    for (int64_t start = 0; start < count; start += CHUNK) {
        const int64_t here = std::min<int64_t>(CHUNK, count - start);
        for (int64_t c = 0; c < here; ++c) {
            const int64_t panel = panels[start + c];
            float *block = score + c * ROWS * LANES;
            for (int64_t s = 0; s < strips; ++s)
                product(query + s * STRIP, keys + panel * LANES * D, D, block + s * STRIP * LANES);
            const int32_t from = int32_t(panel * LANES);
            const bool whole = from >= latest_first && from + LANES - 1 <= earliest_last;
            if (whole && !pairs) continue;
            for (int64_t r = 0; r < rows; ++r) {
                const Integers key = lane + from;
                Integers seen = (key >= first[row + r]) & (key <= last[row + r]);
                if (pairs) {
                    const uint8_t *line = keep + (row + r) * p.S + from;
                    const int64_t width = std::min<int64_t>(LANES, p.K - from);
                    Integers kept = {};
                    for (int64_t j = 0; j < width; ++j) kept[j] = -int32_t(line[j]);
                    seen &= kept;
                }
                float *line = block + r * LANES;
                store(line, seen ? load(line) : all(FLOOR));
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            Vector best = all(top[r]);
            for (int64_t c = 0; c < here; ++c)
                best = larger(best, load(score + (c * ROWS + r) * LANES));
            const float peak = highest(best);
            Vector sums = {};
            for (int64_t c = 0; c < here; ++c) {
                float *line = score + (c * ROWS + r) * LANES;
                const Vector weight = exponential(load(line) - peak);
                store(line, weight);
                sums += weight;
            }
            const float shrink = exponential(all(top[r] - peak))[0];
            total[r] = total[r] * shrink + sum(sums);
            if (shrink != 1.0f)
                for (int64_t d = 0; d < D; d += LANES)
                    store(mixed + r * D + d, load(mixed + r * D + d) * shrink);
            top[r] = peak;
        }
        for (int64_t r = 0; r < rows; r += 4) {
            for (int64_t c = 0; c < here; ++c) {
                const int64_t from = int64_t(panels[start + c]) * LANES;
                const int64_t width = std::min<int64_t>(LANES, p.K - from);
                const float *weight = score + (c * ROWS + r) * LANES;
                const float *value = values + from * p.v_step[2];
                int64_t d = 0;
                for (; d + WIDTH * LANES <= D; d += WIDTH * LANES)
                    mix<WIDTH>(p, weight, value + d, width, mixed + r * D + d);
                for (; d < D; d += LANES) mix<1>(p, weight, value + d, width, mixed + r * D + d);
            }
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        float *to = p.out + b * p.out_step[0] + h * p.out_step[1] + (row + r) * p.out_step[2];
        const float factor = top[r] > FLOOR ? 1.0f / total[r] : 0.0f; // nothing kept: zeros
        for (int64_t d = 0; d < D; d += LANES)
            store(to + d, top[r] > FLOOR ? load(mixed + r * D + d) * factor : Vector{});
    }
}

} // namespace

extern "C" void saa_attention(const Problem *problem, int threads) {
    const Problem &p = *problem;
    const int64_t panels = panels_for(p.K), size = LANES * p.D;
    const int64_t tile_rows = p.bk == 1 ? PAIR_ROWS : std::min<int64_t>(p.bq, ROWS);
    const int64_t block_rows = p.bk == 1 ? PAIR_ROWS : p.bq;
    const int64_t blocks = (p.Q + block_rows - 1) / block_rows;
    const Floats packed(p.B * p.G * panels * size);
    std::atomic<int64_t> next_panel{0}, next_block{0};
    on_threads(threads, [&] {
        for (int64_t i; (i = next_panel++) < p.B * p.G * panels;) {
            const int64_t b = i / panels / p.G, g = i / panels % p.G;
            pack(p.k + b * p.k_step[0] + g * p.k_step[1], p.k_step[2], p.K, p.D, i % panels,
                 packed.data + i * size);
        }
    });
    on_threads(threads, [&] {
        Scratch work(p);
        for (int64_t i; (i = next_block++) < p.B * p.H * blocks;) {
            // The last blocks see the most keys: starting with them, no thread ends alone.
            const int64_t block = blocks - 1 - i / (p.B * p.H), b = i / p.H % p.B, h = i % p.H;
            const int64_t end = std::min((block + 1) * block_rows, p.Q);
            for (int64_t row = block * block_rows; row < end; row += tile_rows)
                tile(p, packed.data, b, h, row, std::min(tile_rows, end - row), work);
        }
    });
}
