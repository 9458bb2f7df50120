// What attention.cpp and scoring.cpp share: vectors, panels of keys, threads.
//
// Vectors are the compiler's own (vector_size), so that one source serves AVX2, AVX-512 and NEON. They are
// as wide as the machine's: GCC keeps wider ones in memory, and the kernel then takes ten times as long.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace saa {

constexpr int ROWS = 32;        // most queries per tile; a strip of queries is [D][ROWS]
constexpr float FLOOR = -1e30f; // stands for minus infinity, without its NaN
// LANES is the floats of a vector, and the keys per panel. Registers hold the sums of STRIP queries with a
// panel, and those of four queries with WIDTH vectors of features.
#if defined(__AVX512F__)
constexpr int LANES = 16, STRIP = 16, WIDTH = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8, STRIP = 8, WIDTH = 2;
#else
constexpr int LANES = 4, STRIP = 4, WIDTH = 2;
#endif
static_assert(16 % LANES == 0 && LANES % STRIP == 0 && ROWS % STRIP == 0 && STRIP % 4 == 0);

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4)));

inline Vector load(const float *from) { return *reinterpret_cast<const Vector *>(from); }
inline void store(float *to, Vector x) { *reinterpret_cast<Vector *>(to) = x; }
inline Vector all(float x) { return x - Vector{}; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Halves fold onto each other: few steps that wait for one another, and a fixed order of rounding.
template <class Fold> inline float folded(Vector x, Fold fold) {
    float part[LANES];
    store(part, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) part[i] = fold(part[i], part[i + half]);
    return part[0];
}

inline float highest(Vector x) {
    return folded(x, [](float a, float b) { return a > b ? a : b; });
}

inline float sum(Vector x) {
    return folded(x, [](float a, float b) { return a + b; });
}

// e to the power of x for x <= 0, relative error about 2e-7; zero below -87.
inline Vector exponential(Vector x) {
    const Vector clamped = larger(x, all(-87.0f));
    const float shift = 12582912.0f; // 1.5 * 2^23: adding it rounds to a whole number
    const Vector shifted = clamped * 1.44269504f + shift;
    const Vector whole = shifted - shift;
    const Vector rest = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Vector power = all(1.9875691500e-4f);
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    Integers bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const Integers exponent = (bits + (127 - 0x4B400000)) << 23;
    Vector scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return x < -87.0f ? Vector{} : power * scale;
}

// One panel of keys as [D][LANES], zero beyond the last of K keys; ``step`` floats lie between keys.
inline void pack(const float *keys, int64_t step, int64_t K, int64_t D, int64_t panel, float *to) {
    const int64_t from = panel * LANES, count = std::min<int64_t>(LANES, K - from);
    for (int64_t i = 0; i < LANES; ++i)
        for (int64_t d = 0; d < D; ++d)
            to[d * LANES + i] = i < count ? keys[(from + i) * step + d] : 0.0f;
}

// score[row][LANES] = query . key for STRIP rows and one panel; query is [D][ROWS].
inline void product(const float *query, const float *panel, int64_t D, float *score) {
    Vector sums[STRIP] = {};
    for (int64_t d = 0; d < D; ++d) {
        const Vector key = load(panel + d * LANES);
        for (int r = 0; r < STRIP; ++r) sums[r] += query[d * ROWS + r] * key;
    }
    for (int r = 0; r < STRIP; ++r) store(score + r * LANES, sums[r]);
}

// Runs body() on every thread at once.
template <class Body> void on_threads(int threads, Body body) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    body();
#else
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(body);
    body();
    for (auto &other : others) other.join();
#endif
}

inline int64_t panels_for(int64_t keys) { return (keys + LANES - 1) / LANES; }

// Memory for vectors, freed by itself.
struct Floats {
    float *data;
    explicit Floats(int64_t count)
        : data(static_cast<float *>(std::aligned_alloc(64, (sizeof(float) * count + 63) / 64 * 64))) {}
    ~Floats() { std::free(data); }
    Floats(const Floats &) = delete;
};

} // namespace saa
