// The gate's scores and the top-p rule on a CPU: what gates.py and rules.py compute with PyTorch,
// in one pass over memory each. Both Python versions stay, as oracle and wherever gradients or
// another device are needed; scoring.py checks every argument.

#include "vectors.h"

namespace {

using namespace saa;

struct Scoring {
    const float *q, *k;                     // [B, H, Q, D] and [B, G, K, D]
    const float *query_weight, *key_weight; // [H, 2 D, R] and [G, 3 D, R]
    const float *distance, *first;          // [H, buckets], [H]
    const uint8_t *valid;                   // [B, K]: keys that anybody may see; null: all
    const int32_t *bucket;                  // [P, S]
    const float *log_visible;   // [B or 1, P, S], minus infinity where nothing is visible
    const float *first_block;   // [B, 1, S]: 1 for the first visible block; null: block 0
    float *out;                 // [B, H, P / share, S]
    int64_t q_step[3], k_step[3]; // floats per batch item, head, position
    int64_t B, H, G, Q, K, D, P, S, R, size, bk, buckets, share, visible_step;
    float scale;
};

// out[row][R] = in . weight for up to STRIP rows; in is [E][ROWS], weight [E][R].
inline void project(const float *in, const float *weight, int64_t E, int64_t R, float *out) {
    for (int64_t column = 0; column < R; column += LANES) {
        Vector sums[STRIP] = {};
        for (int64_t e = 0; e < E; ++e) {
            const Vector w = load(weight + e * R + column);
            for (int r = 0; r < STRIP; ++r) sums[r] += in[e * ROWS + r] * w;
        }
        for (int r = 0; r < STRIP; ++r) store(out + r * R + column, sums[r]);
    }
}

// Mean and middle row of the queries of one pooled row, as column ``to`` of [2 D][ROWS].
void pool_queries(const Scoring &p, const float *queries, int64_t row, float *sums, float *to) {
    const int64_t from = row * p.size, middle = std::min(from + p.size / 2, p.Q - 1);
    const float *centre = queries + middle * p.q_step[2];
    std::fill(sums, sums + p.D, 0.0f);
    for (int64_t i = from; i < from + p.size; ++i) {
        // Rows beyond the end repeat the last query.
        const float *query = queries + std::min(i, p.Q - 1) * p.q_step[2];
        for (int64_t d = 0; d < p.D; ++d) sums[d] += query[d];
    }
    const float share = p.scale / float(p.size);
    for (int64_t d = 0; d < p.D; ++d) {
        to[d * ROWS] = sums[d] * share;
        to[(p.D + d) * ROWS] = centre[d] * p.scale;
    }
}

// Mean, maximum and minimum of the valid keys of one block, as column ``to`` of [3 D][ROWS].
void pool_keys(const Scoring &p, const float *keys, const uint8_t *valid, int64_t block,
               float *sums, float *to) {
    const int64_t from = block * p.bk, end = std::min(from + p.bk, p.K);
    float *most = sums + p.D, *least = most + p.D;
    int64_t count = 0;
    std::fill(sums, sums + 3 * p.D, 0.0f);
    for (int64_t i = from; i < end; ++i) {
        if (valid && !valid[i]) continue;
        const float *key = keys + i * p.k_step[2];
        if (!count++) {
            for (int64_t d = 0; d < p.D; ++d) sums[d] = most[d] = least[d] = key[d];
            continue;
        }
        for (int64_t d = 0; d < p.D; ++d) {
            sums[d] += key[d];
            most[d] = most[d] > key[d] ? most[d] : key[d];
            least[d] = least[d] < key[d] ? least[d] : key[d];
        }
    }
    const float share = 1.0f / float(std::max<int64_t>(count, 1));
    for (int64_t d = 0; d < p.D; ++d) sums[d] *= share;
    for (int64_t d = 0; d < 3 * p.D; ++d) to[d * ROWS] = sums[d];
}

struct Scratch {
    Floats sums, pooled, rows, query, score;
    Scratch(const Scoring &p, int64_t step)
        : sums(3 * p.D), pooled(3 * p.D * ROWS), rows(LANES * p.R), query(p.R * ROWS),
          score((step + STRIP) * panels_for(p.S) * LANES) {}
};

// The projected summaries of LANES key blocks as one panel [R][LANES].
void key_panel(const Scoring &p, int64_t b, int64_t g, int64_t panel, Scratch &work, float *to) {
    const float *keys = p.k + b * p.k_step[0] + g * p.k_step[1];
    const uint8_t *valid = p.valid ? p.valid + b * p.K : nullptr;
    float *pooled = work.pooled.data, *rows = work.rows.data;
    for (int64_t i = 0; i < LANES; ++i)
        pool_keys(p, keys, valid, panel * LANES + i, work.sums.data, pooled + i);
    for (int64_t i = 0; i < LANES; i += STRIP)
        project(pooled + i, p.key_weight + g * 3 * p.D * p.R, 3 * p.D, p.R, rows + i * p.R);
    pack(rows, p.R, LANES, p.R, 0, to);
}

// Scores of up to STRIP pooled queries before the softmax, FLOOR where nothing is visible.
void strip(const Scoring &p, const float *packed, int64_t b, int64_t h, int64_t row, int64_t rows,
           Scratch &work, float *score) {
    const int64_t panels = panels_for(p.S), width = panels * LANES;
    const float *keys = packed + (b * p.G + h / (p.H / p.G)) * panels * p.R * LANES;
    const float *queries = p.q + b * p.q_step[0] + h * p.q_step[1];
    const float *bias = p.distance + h * p.buckets;
    for (int64_t r = 0; r < STRIP; ++r)
        pool_queries(p, queries, row + std::min(r, rows - 1), work.sums.data,
                     work.pooled.data + r);
    project(work.pooled.data, p.query_weight + h * 2 * p.D * p.R, 2 * p.D, p.R, work.rows.data);
    for (int64_t d = 0; d < p.R; ++d)
        for (int64_t r = 0; r < STRIP; ++r)
            work.query.data[d * ROWS + r] = work.rows.data[r * p.R + d];
    float part[STRIP * LANES];
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t from = panel * LANES, count = std::min<int64_t>(LANES, p.S - from);
        const float *visible = p.log_visible + b * p.visible_step + row * p.S + from;
        float most = FLOOR;
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < count; ++j)
                most = visible[r * p.S + j] > most ? visible[r * p.S + j] : most;
        const bool any = most > FLOOR;
        if (any) product(work.query.data, keys + panel * p.R * LANES, p.R, part);
        for (int64_t r = 0; r < rows; ++r) {
            float *line = score + r * width + from;
            store(line, all(FLOOR));
            if (!any) continue;
            const int32_t *bucket = p.bucket + (row + r) * p.S + from;
            for (int64_t j = 0; j < count; ++j) {
                const float x = part[r * LANES + j] + bias[bucket[j]] + visible[r * p.S + j];
                line[j] = x > FLOOR ? x : FLOOR;
            }
        }
    }
}

// Predicted mass of the blocks of up to ``rows`` pooled queries: softmax, then the mean of each
// group of ``share``.
void group(const Scoring &p, const float *packed, int64_t b, int64_t h, int64_t row, int64_t rows,
           Scratch &work) {
    const int64_t width = panels_for(p.S) * LANES;
    float *score = work.score.data;
    for (int64_t r = 0; r < rows; r += STRIP)
        strip(p, packed, b, h, row + r, std::min<int64_t>(STRIP, rows - r), work,
              score + r * width);
    for (int64_t r = 0; r < rows; ++r) {
        float *line = score + r * width;
        if (p.first_block)
            for (int64_t s = 0; s < p.S; ++s) line[s] += p.first[h] * p.first_block[b * p.S + s];
        else if (line[0] > FLOOR)
            line[0] += p.first[h];
        Vector best = all(FLOOR), sums = {};
        for (int64_t i = 0; i < width; i += LANES) best = larger(best, load(line + i));
        const float peak = highest(best);
        for (int64_t i = 0; i < width; i += LANES) {
            const Vector x = load(line + i);
            const Vector weight = x > FLOOR ? exponential(x - peak) : Vector{};
            store(line + i, weight);
            sums += weight;
        }
        const float total = sum(sums), factor = total > 0 ? 1.0f / total : 0.0f;
        for (int64_t i = 0; i < width; i += LANES) store(line + i, load(line + i) * factor);
    }
    for (int64_t r = 0; r < rows; r += p.share) {
        // A query that sees nothing (padding) does not count in the mean of its block.
        int64_t seen = 0;
        for (int64_t i = 0; i < p.share; ++i) {
            const float *line = score + (r + i) * width;
            bool any = false;
            for (int64_t s = 0; s < p.S && !any; ++s) any = line[s] > 0;
            seen += any;
        }
        float *to = p.out + ((b * p.H + h) * p.P + row + r) / p.share * p.S;
        for (int64_t s = 0; s < p.S; ++s) {
            float total = 0;
            for (int64_t i = 0; i < p.share; ++i) total += score[(r + i) * width + s];
            to[s] = total / float(std::max<int64_t>(seen, 1));
        }
    }
}

struct TopP {
    const float *score;    // [rows, S], row = (item * H + head) * M + block
    const uint8_t *forced; // [B or 1, M, S]
    const int32_t *count;  // [B or 1, M, S]
    uint8_t *keep;         // [rows, S]
    float *threshold;      // [rows]
    int64_t B, H, M, S, forced_step, count_step;
    float target;
};

// Sum of the scores that reach the bar; padded with zeros to whole vectors.
inline float reaching(const float *free, int64_t width, float bar) {
    Vector even = {}, odd = {};
    int64_t i = 0;
    for (; i + LANES < width; i += 2 * LANES) {
        const Vector x = load(free + i), y = load(free + i + LANES);
        even += x >= bar ? x : Vector{};
        odd += y >= bar ? y : Vector{};
    }
    if (i < width) {
        const Vector x = load(free + i);
        even += x >= bar ? x : Vector{};
    }
    return sum(even + odd);
}

inline float as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

void top_p(const TopP &p, int64_t row, float *free) {
    const int64_t b = row / (p.H * p.M), m = row % p.M;
    const float *score = p.score + row * p.S;
    const uint8_t *forced = p.forced + b * p.forced_step + m * p.S;
    const int32_t *count = p.count + b * p.count_step + m * p.S;
    uint8_t *keep = p.keep + row * p.S;
    int64_t end = p.S; // beyond it nothing is allowed
    while (end && !count[end - 1]) keep[--end] = 0;
    const int64_t width = panels_for(end) * LANES;

    std::copy(score, score + end, free);
    std::fill(free + end, free + width, 0.0f);
    const float total = reaching(free, width, 0);
    for (int64_t s = 0; s < end; ++s) free[s] = forced[s] ? 0.0f : free[s];
    const float held = total - reaching(free, width, 0), wanted = p.target * total - held;
    float bar = __builtin_inff();
    if (wanted > 0) {
        // Scores are not negative, so their bits are ordered as they are: halve the range of bits
        // until one is left, the highest bar that still lets enough through.
        Vector most = {};
        for (int64_t i = 0; i < width; i += LANES) most = larger(load(free + i), most);
        const float top = highest(most);
        uint32_t low = 0, high;
        std::memcpy(&high, &top, sizeof high);
        while (low < high) {
            const uint32_t middle = low + (high - low + 1) / 2;
            if (reaching(free, width, as_float(middle)) >= wanted)
                low = middle;
            else
                high = middle - 1;
        }
        bar = as_float(low);
    }
    p.threshold[row] = bar;
    for (int64_t s = 0; s < end; ++s)
        keep[s] = uint8_t(((free[s] >= bar) | (forced[s] != 0)) & (count[s] > 0));
}

} // namespace

extern "C" void saa_scores(const Scoring *scoring, int threads) {
    const Scoring &p = *scoring;
    const int64_t panels = panels_for(p.S), size = LANES * p.R;
    const int64_t step = std::max<int64_t>(p.share, STRIP / p.share * p.share);
    const int64_t groups = (p.P + step - 1) / step;
    const Floats packed(p.B * p.G * panels * size);
    std::atomic<int64_t> next_panel{0}, next_group{0};
    on_threads(threads, [&] {
        Scratch work(p, 0);
        for (int64_t i; (i = next_panel++) < p.B * p.G * panels;)
            key_panel(p, i / panels / p.G, i / panels % p.G, i % panels, work,
                      packed.data + i * size);
    });
    on_threads(threads, [&] {
        Scratch work(p, step);
        for (int64_t i; (i = next_group++) < p.B * p.H * groups;) {
            const int64_t row = i % groups * step;
            group(p, packed.data, i / groups / p.H, i / groups % p.H, row,
                  std::min(step, p.P - row), work);
        }
    });
}

extern "C" void saa_top_p(const TopP *problem, int threads) {
    const TopP &p = *problem;
    const int64_t rows = p.B * p.H * p.M, chunk = 16;
    std::atomic<int64_t> next{0};
    on_threads(threads, [&] {
        const Floats free(panels_for(p.S) * LANES);
        for (int64_t i; (i = chunk * next++) < rows;)
            for (int64_t row = i; row < std::min(i + chunk, rows); ++row)
                top_p(p, row, free.data);
    });
}
