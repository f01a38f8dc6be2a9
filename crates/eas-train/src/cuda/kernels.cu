// Every operation of a training step that cuDNN isn't called for. Values stand as
// [image][row][column][channel]; T is what they are kept in, sums are in float or double.
// Sums over pixels are cut into parts that depend on shapes alone and joined in their order, so that these
// kernels give the same bits again.

#include <cuda_bf16.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;

// Threads of a block, and of one that sums.
constexpr u32 THREADS = 256, SUMMING = 512;

// ---- What a step depends on, as the host writes it ----

// An image of the batch. `share` is what it keeps where another is mixed in; `label` is the class of
// the larger share, `other` that of the smaller, `larger` the larger share.
struct Placed {
    u32 index;
    int down, right;
    u32 mirror;
    u32 cut_row, cut_column, cut_side;
    float share;
    u32 is_mixed;
    u32 label, other;
    u32 reserved;
    double larger;
};

struct Step {
    float rate, keep, decay;
    u32 decoupled, decay_all;
    u32 drops;
    u32 slot;
    u32 reserved;
    double smoothing;
};

struct Report {
    double loss;
    u64 correct;
};

// ---- Vectors ----

// Numbers of 16 bytes.
template <class T> constexpr int WIDEST = 16 / sizeof(T);

template <int BYTES> struct Raw;
template <> struct Raw<16> { typedef uint4 Type; };
template <> struct Raw<8> { typedef uint2 Type; };
template <> struct Raw<4> { typedef u32 Type; };
template <> struct Raw<2> { typedef u16 Type; };

__device__ inline float number(float x) { return x; }
__device__ inline float number(bf16 x) { return __bfloat162float(x); }
template <class T> __device__ inline T rounded(float x);
template <> __device__ inline float rounded<float>(float x) { return x; }
template <> __device__ inline bf16 rounded<bf16>(float x) { return __float2bfloat16_rn(x); }

// V numbers by one access; of floats at most four.
template <class T, int V> __device__ inline void load(const T *from, float (&to)[V]) {
    if constexpr (V * sizeof(T) > 16) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float part[V / 2];
            load<T, V / 2>(from + half * V / 2, part);
#pragma unroll
            for (int v = 0; v < V / 2; v++) to[half * V / 2 + v] = part[v];
        }
    } else {
        typedef typename Raw<V * sizeof(T)>::Type Bits;
        const Bits bits = *reinterpret_cast<const Bits *>(from);
        const T *parts = reinterpret_cast<const T *>(&bits);
#pragma unroll
        for (int v = 0; v < V; v++) to[v] = number(parts[v]);
    }
}

template <class T, int V> __device__ inline void store(T *to, const float (&from)[V]) {
    typedef typename Raw<V * sizeof(T)>::Type Bits;
    Bits bits;
    T *parts = reinterpret_cast<T *>(&bits);
#pragma unroll
    for (int v = 0; v < V; v++) parts[v] = rounded<T>(from[v]);
    *reinterpret_cast<Bits *>(to) = bits;
}

// Writes, or adds to what is there.
template <class T, int V> __device__ inline void put(T *to, float (&value)[V], u32 accumulate) {
    if (accumulate) {
        float before[V];
        load<T, V>(to, before);
#pragma unroll
        for (int v = 0; v < V; v++) value[v] += before[v];
    }
    store<T, V>(to, value);
}

// max(0, x) that keeps NaN, so that divergence shows.
__device__ inline float rectified(float x) { return x < 0.0f ? 0.0f : x; }

// Threads that go over a list: a buffer has less than 2^31 numbers.
__device__ inline u32 place() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u32 places() { return gridDim.x * blockDim.x; }

// Threads that go over rows of a matrix: each has some channels, the same in every row.
template <int V> __device__ inline u32 own_channel() { return (blockIdx.x * blockDim.x + threadIdx.x) * V; }
__device__ inline u32 first_row() { return blockIdx.y * blockDim.y + threadIdx.y; }
__device__ inline u32 rows_apart() { return gridDim.y * blockDim.y; }

// ---- Sums over pixels ----

// Two sums for each channel over all rows of a matrix [row][channel]. A block takes the channels of
// `blockIdx.x` and the rows of part `blockIdx.y`; the last block of some channels joins their parts.
struct Shared {
    float2 own[SUMMING * 8];
    double2 joined[SUMMING];
    bool last;
};

template <int V, class Each, class Finish>
__device__ void sums(Each each, Finish finish, Shared &shared, float2 *partials, u32 *counters, u32 rows,
                     u32 channels) {
    float2 *own = shared.own;
    double2 *joined = shared.joined;
    bool &last = shared.last;
    const u32 x = threadIdx.x, y = threadIdx.y, wide = blockDim.x, high = blockDim.y;
    const u32 group = blockIdx.x * wide + x, thread = y * wide + x;
    const u32 part = (rows + gridDim.y - 1) / gridDim.y;
    const u32 begin = blockIdx.y * part, end = min(begin + part, rows);
    float first[V] = {}, second[V] = {};
    if (group < channels / V) {
#pragma unroll 4
        for (u32 row = begin + y; row < end; row += high) each(row, first, second);
    }
#pragma unroll
    for (int v = 0; v < V; v++) own[(y * wide + x) * V + v] = make_float2(first[v], second[v]);
    __syncthreads();
    for (u32 half = high / 2; half > 0; half /= 2) {
        if (y < half) {
#pragma unroll
            for (int v = 0; v < V; v++) {
                float2 &to = own[(y * wide + x) * V + v];
                const float2 from = own[((y + half) * wide + x) * V + v];
                to.x += from.x;
                to.y += from.y;
            }
        }
        __syncthreads();
    }
    if (y == 0 && group < channels / V) {
#pragma unroll
        for (int v = 0; v < V; v++) partials[(u64)blockIdx.y * channels + group * V + v] = own[x * V + v];
    }
    __threadfence();
    __syncthreads();
    if (thread == 0) last = atomicAdd(&counters[blockIdx.x], 1) == gridDim.y - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    const u32 width = wide * V, slices = SUMMING / width;
    const u32 slice = thread / width, channel = blockIdx.x * width + thread % width;
    double2 total = make_double2(0.0, 0.0);
    if (channel < channels) {
#pragma unroll 8
        for (u32 at = slice; at < gridDim.y; at += slices) {
            const float2 from = __ldcg(&partials[(u64)at * channels + channel]);
            total.x += from.x;
            total.y += from.y;
        }
    }
    joined[thread] = total;
    __syncthreads();
    if (slice == 0 && channel < channels) {
        for (u32 other = 1; other < slices; other++) {
            total.x += joined[other * width + thread].x;
            total.y += joined[other * width + thread].y;
        }
        finish(channel, total.x, total.y);
    }
    if (thread == 0) counters[blockIdx.x] = 0;
}

// ---- Images ----

template <class T>
__device__ void images_given(const float *images, T *to, u32 count, u32 channels, u32 area) {
    const u32 all = count * area * channels;
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % channels;
        const u32 pixel = at / channels;
        const u32 image = pixel / area, where = pixel % area;
        to[at] = rounded<T>(images[(image * channels + channel) * area + where]);
    }
}

// A value of an image, cut, mirrored and normalised; rounded as the CPU rounds it.
__device__ inline float pixel(const u8 *source, const Placed &placed, u32 channel, int row, int column,
                              u32 channels, int height, int width, float scale, float shift) {
    if (placed.cut_side > 0) {
        const int side = placed.cut_side, half = side / 2 + 1;
        const int above = row - ((int)placed.cut_row + half), before = column - ((int)placed.cut_column + half);
        if (above < 0 && above >= -side && before < 0 && before >= -side) return 0.0f;
    }
    const int seen = placed.mirror ? width - 1 - column : column;
    const int y = row + placed.down, x = seen + placed.right;
    if (y < 0 || y >= height || x < 0 || x >= width) return 0.0f;
    const u8 value = source[(((u64)placed.index * channels + channel) * height + y) * width + x];
    return __fsub_rn(__fmul_rn((float)value, scale), shift);
}

template <class T>
__device__ void images_drawn(const u8 *source, const Placed *placed, const float *scales, const float *shifts,
                             T *to, u32 count, u32 channels, u32 height, u32 width) {
    const u32 all = count * height * width * channels;
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % channels;
        u32 rest = at / channels;
        const int column = rest % width;
        rest /= width;
        const int row = rest % height;
        const u32 image = rest / height;
        const Placed &own = placed[image];
        const float scale = scales[channel], shift = shifts[channel];
        float value = pixel(source, own, channel, row, column, channels, height, width, scale, shift);
        if (own.is_mixed) {
            const Placed &next = placed[image + 1 == count ? 0 : image + 1];
            const float other = pixel(source, next, channel, row, column, channels, height, width, scale, shift);
            value = __fadd_rn(__fmul_rn(own.share, value), __fmul_rn(__fsub_rn(1.0f, own.share), other));
        }
        to[at] = rounded<T>(value);
    }
}

// ---- Biases ----

template <class T, int V> __device__ void add_bias(T *values, const float *bias, u32 rows, u32 channels) {
    const u32 channel = own_channel<V>();
    if (channel >= channels) return;
    float added[V];
    load<float, V>(bias + channel, added);
    for (u32 row = first_row(); row < rows; row += rows_apart()) {
        T *at = values + row * channels + channel;
        float value[V];
        load<T, V>(at, value);
#pragma unroll
        for (int v = 0; v < V; v++) value[v] += added[v];
        store<T, V>(at, value);
    }
}

template <class T, int V>
__device__ void bias_slopes(const T *slopes, float *bias, Shared &shared, float2 *partials, u32 *counters, u32 rows,
                            u32 channels) {
    const u32 channel = own_channel<V>();
    auto each = [&](u32 row, float(&first)[V], float(&)[V]) {
        float slope[V];
        load<T, V>(slopes + row * channels + channel, slope);
#pragma unroll
        for (int v = 0; v < V; v++) first[v] += slope[v];
    };
    auto finish = [&](u32 channel, double first, double) { bias[channel] = first; };
    sums<V>(each, finish, shared, partials, counters, rows, channels);
}

// ---- Batch norms ----

// Sums are of differences from a channel's first value, which keeps their rounding small where a mean
// is far from 0. `found_mean` and `found_variance` are what the running statistics follow.
template <class T, int V>
__device__ void norm_statistics(const T *values, float epsilon, float *mean, float *inverse, float *found_mean,
                                float *found_variance, Shared &shared, float2 *partials, u32 *counters, u32 rows,
                                u32 channels) {
    const u32 channel = own_channel<V>();
    float origin[V] = {};
    if (channel < channels) load<T, V>(values + channel, origin);
    auto each = [&](u32 row, float(&first)[V], float(&second)[V]) {
        float value[V];
        load<T, V>(values + row * channels + channel, value);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const float gap = value[v] - origin[v];
            first[v] += gap;
            second[v] += gap * gap;
        }
    };
    auto finish = [&](u32 channel, double first, double second) {
        const double gap = first / rows;
        const double variance = fmax(second / rows - gap * gap, 0.0);
        const double center = number(values[channel]) + gap;
        // Where a sum isn't finite, neither is what is normalised by it.
        const bool finite = isfinite(first) && isfinite(second);
        mean[channel] = center;
        inverse[channel] = finite ? 1.0 / sqrt(variance + epsilon) : nan("");
        found_mean[channel] = center;
        found_variance[channel] = variance * rows / (rows > 1 ? rows - 1 : 1);
    };
    sums<V>(each, finish, shared, partials, counters, rows, channels);
}

// What a batch norm multiplies by and adds, of some channels.
template <int V> struct Norm {
    float mean[V], inverse[V], slope[V], beta[V];

    __device__ Norm(const float *means, const float *inverses, const float *gammas, const float *betas, u32 channel) {
        float gamma[V];
        load<float, V>(means + channel, mean);
        load<float, V>(inverses + channel, inverse);
        load<float, V>(gammas + channel, gamma);
        load<float, V>(betas + channel, beta);
#pragma unroll
        for (int v = 0; v < V; v++) slope[v] = inverse[v] * gamma[v];
    }

    __device__ float apply(int v, float value) const { return (value - mean[v]) * slope[v] + beta[v]; }

    // Whether a ReLU behind it lets a slope through.
    __device__ bool passes(int v, float value) const { return rectified(apply(v, value)) != 0.0f; }
};

template <class T, int V>
__device__ void norm_apply(const T *__restrict__ values, const float *mean, const float *inverse, const float *gamma,
                           const float *beta, u32 relu, T *__restrict__ to, u32 rows, u32 channels) {
    const u32 channel = own_channel<V>();
    if (channel >= channels) return;
    const Norm<V> norm(mean, inverse, gamma, beta, channel);
#pragma unroll 4
    for (u32 row = first_row(); row < rows; row += rows_apart()) {
        float value[V];
        load<T, V>(values + row * channels + channel, value);
#pragma unroll
        for (int v = 0; v < V; v++) {
            value[v] = norm.apply(v, value[v]);
            if (relu) value[v] = rectified(value[v]);
        }
        store<T, V>(to + row * channels + channel, value);
    }
}

template <class T, int V>
__device__ void norm_slopes(const T *values, const T *slopes, const float *mean, const float *inverse,
                            const float *gamma, const float *beta, u32 relu, float *gamma_slope, float *beta_slope,
                            float *means, Shared &shared, float2 *partials, u32 *counters, u32 rows, u32 channels) {
    const u32 channel = own_channel<V>();
    const Norm<V> norm(mean, inverse, gamma, beta, channel < channels ? channel : 0);
    auto each = [&](u32 row, float(&first)[V], float(&second)[V]) {
        float value[V], slope[V];
        load<T, V>(values + row * channels + channel, value);
        load<T, V>(slopes + row * channels + channel, slope);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const float passed = !relu || norm.passes(v, value[v]) ? slope[v] : 0.0f;
            first[v] += passed;
            second[v] += passed * ((value[v] - norm.mean[v]) * norm.inverse[v]);
        }
    };
    auto finish = [&](u32 channel, double first, double second) {
        beta_slope[channel] = first;
        gamma_slope[channel] = second;
        means[channel] = first / rows;
        means[channels + channel] = second / rows;
    };
    sums<V>(each, finish, shared, partials, counters, rows, channels);
}

template <class T, int V>
__device__ void norm_backward(const T *__restrict__ values, const T *__restrict__ slopes, const float *mean, const float *inverse,
                              const float *gamma, const float *beta, u32 relu, const float *means, T *__restrict__ to,
                              u32 accumulate, u32 rows, u32 channels) {
    const u32 channel = own_channel<V>();
    if (channel >= channels) return;
    const Norm<V> norm(mean, inverse, gamma, beta, channel);
    float first[V], second[V];
    load<float, V>(means + channel, first);
    load<float, V>(means + channels + channel, second);
#pragma unroll 2
    for (u32 row = first_row(); row < rows; row += rows_apart()) {
        float value[V], slope[V];
        load<T, V>(values + row * channels + channel, value);
        load<T, V>(slopes + row * channels + channel, slope);
#pragma unroll
        for (int v = 0; v < V; v++) {
            const float passed = !relu || norm.passes(v, value[v]) ? slope[v] : 0.0f;
            const float normal = (value[v] - norm.mean[v]) * norm.inverse[v];
            value[v] = norm.slope[v] * (passed - first[v] - normal * second[v]);
        }
        put<T, V>(to + row * channels + channel, value, accumulate);
    }
}

// ---- What is done to each value alone ----

template <class T, int V> __device__ void relu(const T *values, T *to, u32 all) {
    for (u32 at = place(); at < all / V; at += places()) {
        float value[V];
        load<T, V>(values + at * V, value);
#pragma unroll
        for (int v = 0; v < V; v++) value[v] = rectified(value[v]);
        store<T, V>(to + at * V, value);
    }
}

template <class T, int V>
__device__ void relu_backward(const T *values, const T *slopes, T *to, u32 accumulate, u32 all) {
    for (u32 at = place(); at < all / V; at += places()) {
        float value[V], slope[V];
        load<T, V>(values + at * V, value);
        load<T, V>(slopes + at * V, slope);
#pragma unroll
        for (int v = 0; v < V; v++) slope[v] = rectified(value[v]) != 0.0f ? slope[v] : 0.0f;
        put<T, V>(to + at * V, slope, accumulate);
    }
}

// Some channels of rows to some channels of others.
template <class T, int V>
__device__ void copy(const T *__restrict__ from, u32 from_stride, u32 from_offset, T *__restrict__ to, u32 to_stride, u32 to_offset,
                     u32 accumulate, u32 rows, u32 channels) {
    const u32 channel = own_channel<V>();
    if (channel >= channels) return;
#pragma unroll 4
    for (u32 row = first_row(); row < rows; row += rows_apart()) {
        float value[V];
        load<T, V>(from + row * from_stride + from_offset + channel, value);
        put<T, V>(to + row * to_stride + to_offset + channel, value, accumulate);
    }
}

// Philox4x32-10 (Salmon et al., SC 2011): the number at a place of the stream of a key.
__device__ inline u32 philox(u64 key, u64 place) {
    const u64 block = place / 4;
    u32 k0 = key, k1 = key >> 32;
    u32 c[4] = {(u32)block, (u32)(block >> 32), 0, 0};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const u64 first = (u64)c[0] * 0xD2511F53u, second = (u64)c[2] * 0xCD9E8D57u;
        const u32 next[4] = {(u32)(second >> 32) ^ c[1] ^ k0, (u32)second, (u32)(first >> 32) ^ c[3] ^ k1,
                             (u32)first};
#pragma unroll
        for (int part = 0; part < 4; part++) c[part] = next[part];
    }
    const u32 part = place % 4;
    return part < 2 ? (part == 0 ? c[0] : c[1]) : (part == 2 ? c[2] : c[3]);
}

// Dropout of values, or of slopes: the masks are those of the CPU engine, where numbers are drawn
// channel by channel. Without randomness every value is kept as it is.
template <class T>
__device__ void dropout(const T *values, T *to, const Step *step, const u64 *key, float kept_scale, u64 threshold,
                        u32 accumulate, u32 rows, u32 channels) {
    const bool drops = step->drops;
    for (u32 at = place(); at < rows * channels; at += places()) {
        const u32 row = at / channels, channel = at % channels;
        float value[1] = {number(values[at])};
        if (drops) value[0] *= philox(*key, (u64)channel * rows + row) >= threshold ? kept_scale : 0.0f;
        put<T, 1>(to + at, value, accumulate);
    }
}

// ---- Pools ----

struct Window {
    u32 count, channels;
    u32 height, width, out_height, out_width;
    u32 size_height, size_width, stride, padding;
};

template <class T, int V> __device__ void max_pool(const T *values, T *to, u16 *winners, Window pool) {
    const u32 groups = pool.channels / V;
    const u32 all = pool.count * pool.out_height * pool.out_width * groups;
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % groups * V;
        u32 rest = at / groups;
        const int column = (int)(rest % pool.out_width * pool.stride) - (int)pool.padding;
        rest /= pool.out_width;
        const int row = (int)(rest % pool.out_height * pool.stride) - (int)pool.padding;
        const u32 image = rest / pool.out_height;
        float best[V];
        u16 winner[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            best[v] = -INFINITY;
            winner[v] = 0xFFFF;
        }
        for (u32 y = 0; y < pool.size_height; y++) {
            for (u32 x = 0; x < pool.size_width; x++) {
                const int r = row + (int)y, c = column + (int)x;
                if (r < 0 || r >= (int)pool.height || c < 0 || c >= (int)pool.width) continue;
                float value[V];
                load<T, V>(values + ((image * pool.height + r) * pool.width + c) * pool.channels + channel, value);
#pragma unroll
                for (int v = 0; v < V; v++) {
                    // The first of a window stands where none is larger, and NaN stays, so that divergence shows.
                    if (winner[v] == 0xFFFF || value[v] > best[v] || value[v] != value[v]) {
                        if (best[v] == best[v]) best[v] = value[v];
                        winner[v] = y * pool.size_width + x;
                    }
                }
            }
        }
        store<T, V>(to + at * V, best);
#pragma unroll
        for (int v = 0; v < V; v++) winners[at * V + v] = winner[v];
    }
}

// Windows that cover a place: from `first` up to `last`, which is left out.
__device__ inline void covering(int at, u32 size, u32 stride, u32 padding, u32 windows, u32 &first, u32 &last) {
    const int from = at + (int)padding;
    first = from < (int)size ? 0 : (from - (int)size) / (int)stride + 1;
    last = min((u32)from / stride + 1, windows);
}

template <class T, int V>
__device__ void max_pool_backward(const u16 *winners, const T *slopes, T *to, u32 accumulate, Window pool) {
    const u32 groups = pool.channels / V;
    const u32 all = pool.count * pool.height * pool.width * groups;
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % groups * V;
        u32 rest = at / groups;
        const u32 column = rest % pool.width;
        rest /= pool.width;
        const u32 row = rest % pool.height;
        const u32 image = rest / pool.height;
        u32 top, bottom, left, right;
        covering(row, pool.size_height, pool.stride, pool.padding, pool.out_height, top, bottom);
        covering(column, pool.size_width, pool.stride, pool.padding, pool.out_width, left, right);
        float sum[V] = {};
        for (u32 y = top; y < bottom; y++) {
            for (u32 x = left; x < right; x++) {
                const u32 here = (row + pool.padding - y * pool.stride) * pool.size_width + column + pool.padding -
                                 x * pool.stride;
                const u32 window = ((image * pool.out_height + y) * pool.out_width + x) * pool.channels + channel;
                float slope[V];
                load<T, V>(slopes + window, slope);
#pragma unroll
                for (int v = 0; v < V; v++) sum[v] += winners[window + v] == here ? slope[v] : 0.0f;
            }
        }
        put<T, V>(to + at * V, sum, accumulate);
    }
}

template <class T, int V> __device__ void average_pool(const T *values, T *to, Window pool) {
    const u32 groups = pool.channels / V;
    const u32 all = pool.count * pool.out_height * pool.out_width * groups;
    const float scale = 1.0f / (pool.size_height * pool.size_width);
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % groups * V;
        u32 rest = at / groups;
        const u32 column = rest % pool.out_width * pool.stride;
        rest /= pool.out_width;
        const u32 row = rest % pool.out_height * pool.stride;
        const u32 image = rest / pool.out_height;
        float sum[V] = {};
        for (u32 y = row; y < row + pool.size_height; y++) {
            for (u32 x = column; x < column + pool.size_width; x++) {
                float value[V];
                load<T, V>(values + ((image * pool.height + y) * pool.width + x) * pool.channels + channel, value);
#pragma unroll
                for (int v = 0; v < V; v++) sum[v] += value[v];
            }
        }
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] *= scale;
        store<T, V>(to + at * V, sum);
    }
}

template <class T, int V>
__device__ void average_pool_backward(const T *slopes, T *to, u32 accumulate, Window pool) {
    const u32 groups = pool.channels / V;
    const u32 all = pool.count * pool.height * pool.width * groups;
    const float scale = 1.0f / (pool.size_height * pool.size_width);
    for (u32 at = place(); at < all; at += places()) {
        const u32 channel = at % groups * V;
        u32 rest = at / groups;
        const u32 column = rest % pool.width;
        rest /= pool.width;
        const u32 row = rest % pool.height;
        const u32 image = rest / pool.height;
        u32 top, bottom, left, right;
        covering(row, pool.size_height, pool.stride, 0, pool.out_height, top, bottom);
        covering(column, pool.size_width, pool.stride, 0, pool.out_width, left, right);
        float sum[V] = {};
        for (u32 y = top; y < bottom; y++) {
            for (u32 x = left; x < right; x++) {
                float slope[V];
                load<T, V>(slopes + ((image * pool.out_height + y) * pool.out_width + x) * pool.channels + channel,
                           slope);
#pragma unroll
                for (int v = 0; v < V; v++) sum[v] += slope[v];
            }
        }
#pragma unroll
        for (int v = 0; v < V; v++) sum[v] *= scale;
        put<T, V>(to + at * V, sum, accumulate);
    }
}

// ---- Flatten ----

// [image][first][second] to [image][second][first].
template <class T>
__device__ void transposed(const T *from, T *to, u32 accumulate, u32 count, u32 first, u32 second) {
    const u32 all = count * first * second;
    for (u32 at = place(); at < all; at += places()) {
        const u32 one = at % first;
        const u32 rest = at / first;
        const u32 other = rest % second;
        const u32 image = rest / second;
        float value[1] = {number(from[(image * first + one) * second + other])};
        put<T, 1>(to + at, value, accumulate);
    }
}

// ---- Loss ----

__device__ inline double warp_sum(double value) {
#pragma unroll
    for (int gap = 16; gap > 0; gap /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, gap);
    return value;
}

// Cross-entropy and its slope, a warp an image; the last block joins the images' losses. A loss that
// isn't finite is remembered, and no step behind it changes a parameter.
template <class T>
__device__ void cross_entropy(const T *logits, const Placed *placed, const Step *step, T *slopes, double *losses,
                              u32 *hits, Report *reports, u32 *diverged, u32 *counter, u32 count, u32 classes) {
    __shared__ bool last;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 image = blockIdx.x * (THREADS / 32) + warp;
    if (image < count) {
        const T *row = logits + image * classes;
        float largest = -INFINITY;
        u32 best = 0;
        for (u32 at = lane; at < classes; at += 32) {
            const float logit = number(row[at]);
            if (logit > largest) {
                largest = logit;
                best = at;
            }
        }
#pragma unroll
        for (int gap = 16; gap > 0; gap /= 2) {
            const float other = __shfl_xor_sync(0xFFFFFFFFu, largest, gap);
            const u32 at = __shfl_xor_sync(0xFFFFFFFFu, best, gap);
            if (other > largest || (other == largest && at < best)) {
                largest = other;
                best = at;
            }
        }
        double sum = 0.0;
        for (u32 at = lane; at < classes; at += 32) sum += exp((double)(number(row[at]) - largest));
        const double log_sum = log(warp_sum(sum));
        const Placed &shown = placed[image];
        const double smoothing = step->smoothing, spread = smoothing / classes;
        double loss = 0.0;
        for (u32 at = lane; at < classes; at += 32) {
            double target = spread;
            if (at == shown.label) target += (1.0 - smoothing) * shown.larger;
            if (at == shown.other) target += (1.0 - smoothing) * (1.0 - shown.larger);
            const double log_probability = (double)(number(row[at]) - largest) - log_sum;
            loss -= target * log_probability;
            slopes[image * classes + at] = rounded<T>((exp(log_probability) - target) / count);
        }
        loss = warp_sum(loss);
        if (lane == 0) {
            losses[image] = loss;
            hits[image] = best == shown.label;
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last || warp > 0) return;
    __threadfence();
    double loss = 0.0, correct = 0.0;
    for (u32 at = lane; at < count; at += 32) {
        loss += __ldcg(&losses[at]);
        correct += __ldcg(&hits[at]);
    }
    loss = warp_sum(loss);
    correct = warp_sum(correct);
    if (lane == 0) {
        reports[step->slot] = Report{loss / count, (u64)correct};
        if (!isfinite(loss)) *diverged = 1;
        *counter = 0;
    }
}

// ---- Update ----

// Some numbers of one parameter, from its `first` on. It begins at `start` here and at `host` there, where
// kernels stand as [filter][channel][pixel] instead of [filter][pixel][channel].
struct Chunk {
    u32 start, host, first, length;
    u32 kind;
    u32 channels, pixels;
};
constexpr u32 TRAINED = 1, WEIGHT = 2, FOLLOWS = 4;

// Where a number of a parameter stands here, by where it stands on the host.
__device__ inline u32 place_of(const Chunk &chunk, u32 host) {
    const u32 pixel = host % chunk.pixels, rest = host / chunk.pixels;
    const u32 channel = rest % chunk.channels, filter = rest / chunk.channels;
    return (filter * chunk.pixels + pixel) * chunk.channels + channel;
}

// Share of the old running statistics that a step keeps.
constexpr float STATISTICS_DECAY = 0.9f;

// One step of Nesterov momentum over all parameters, and the running statistics. Where products are in
// bf16, weights are kept rounded too, and their slopes are in `half_slopes`.
extern "C" __global__ void update(float *values, float *momentum, bf16 *halves, const float *slopes,
                                  const bf16 *half_slopes, const Chunk *chunks, const Step *step,
                                  const u32 *diverged, u32 in_halves) {
    if (*diverged) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Step now = *step;
    const bool weight = chunk.kind & WEIGHT, half = weight && in_halves;
    const bool decays = now.decay_all || weight;
    const float decay = decays ? now.decay : 0.0f;
    const float coupled = now.decoupled ? 0.0f : decay, own = now.decoupled ? now.rate * decay : 0.0f;
    const u32 start = chunk.start + chunk.first;
    for (u32 at = start + threadIdx.x; at < start + chunk.length; at += blockDim.x) {
        if (chunk.kind & FOLLOWS) {
            values[at] = STATISTICS_DECAY * values[at] + (1.0f - STATISTICS_DECAY) * slopes[at];
        }
        if (!(chunk.kind & TRAINED)) continue;
        const float slope = (half ? number(half_slopes[at]) : slopes[at]) + coupled * values[at];
        const float moved = now.keep * momentum[at] + slope;
        momentum[at] = moved;
        const float value = values[at] - now.rate * (slope + now.keep * moved) - own * values[at];
        values[at] = value;
        if (half) halves[at] = rounded<bf16>(value);
    }
}

// All parameters, or numbers of theirs, from the host's order to ours.
extern "C" __global__ void from_host(const float *host, float *here, const Chunk *chunks) {
    const Chunk chunk = chunks[blockIdx.x];
    for (u32 at = chunk.first + threadIdx.x; at < chunk.first + chunk.length; at += blockDim.x) {
        here[chunk.start + place_of(chunk, at)] = host[chunk.host + at];
    }
}

// And back; slopes of weights are in `halves` where products are in bf16.
extern "C" __global__ void to_host(const float *here, const bf16 *halves, float *host, const Chunk *chunks,
                                   u32 in_halves) {
    const Chunk chunk = chunks[blockIdx.x];
    const bool half = (chunk.kind & WEIGHT) && in_halves;
    for (u32 at = chunk.first + threadIdx.x; at < chunk.first + chunk.length; at += blockDim.x) {
        const u32 place = chunk.start + place_of(chunk, at);
        host[chunk.host + at] = half ? number(halves[place]) : here[place];
    }
}

extern "C" __global__ void round_all(const float *values, bf16 *halves, u32 all) {
    for (u32 at = place(); at < all; at += places()) halves[at] = rounded<bf16>(values[at]);
}

// What normalises by running statistics.
extern "C" __global__ void norm_running(const float *running_mean, const float *running_variance, float epsilon,
                                        float *mean, float *inverse, u32 channels) {
    for (u32 at = place(); at < channels; at += places()) {
        mean[at] = running_mean[at];
        inverse[at] = 1.0f / sqrtf(running_variance[at] + epsilon);
    }
}

// ---- Each kernel by what its values are kept in ----

// By the longest vectors that these numbers are multiples of.
#define VECTORS(T, numbers, call) \
    if (WIDEST<T> == 8 && (numbers) % 8 == 0) { \
        constexpr int V = WIDEST<T>; \
        call; \
    } else if ((numbers) % 4 == 0) { \
        constexpr int V = 4; \
        call; \
    } else if ((numbers) % 2 == 0) { \
        constexpr int V = 2; \
        call; \
    } else { \
        constexpr int V = 1; \
        call; \
    }

#define KERNELS(T, suffix) \
    extern "C" __global__ void images_given_##suffix(const float *images, T *to, u32 count, u32 channels, u32 area) { \
        images_given<T>(images, to, count, channels, area); \
    } \
    extern "C" __global__ void images_drawn_##suffix(const u8 *source, const Placed *placed, const float *scales, \
                                                     const float *shifts, T *to, u32 count, u32 channels, \
                                                     u32 height, u32 width) { \
        images_drawn<T>(source, placed, scales, shifts, to, count, channels, height, width); \
    } \
    extern "C" __global__ void add_bias_##suffix(T *values, const float *bias, u32 rows, u32 channels) { \
        VECTORS(T, channels, (add_bias<T, V>(values, bias, rows, channels))) \
    } \
    extern "C" __global__ void bias_slopes_##suffix(const T *slopes, float *bias, float2 *partials, u32 *counters, \
                                                    u32 rows, u32 channels) { \
        __shared__ Shared shared; \
        VECTORS(T, channels, (bias_slopes<T, V>(slopes, bias, shared, partials, counters, rows, channels))) \
    } \
    extern "C" __global__ void norm_statistics_##suffix(const T *values, float epsilon, float *mean, float *inverse, \
                                                        float *found_mean, float *found_variance, \
                                                        float2 *partials, u32 *counters, u32 rows, u32 channels) { \
        __shared__ Shared shared; \
        VECTORS(T, channels, (norm_statistics<T, V>(values, epsilon, mean, inverse, found_mean, found_variance, \
                                                    shared, partials, counters, rows, channels))) \
    } \
    extern "C" __global__ void norm_apply_##suffix(const T *values, const float *mean, const float *inverse, \
                                                   const float *gamma, const float *beta, u32 with_relu, T *to, \
                                                   u32 rows, u32 channels) { \
        VECTORS(T, channels, (norm_apply<T, V>(values, mean, inverse, gamma, beta, with_relu, to, rows, channels))) \
    } \
    extern "C" __global__ void norm_slopes_##suffix(const T *values, const T *slopes, const float *mean, \
                                                    const float *inverse, const float *gamma, const float *beta, \
                                                    u32 with_relu, float *gamma_slope, float *beta_slope, \
                                                    float *means, float2 *partials, u32 *counters, u32 rows, \
                                                    u32 channels) { \
        __shared__ Shared shared; \
        VECTORS(T, channels, (norm_slopes<T, V>(values, slopes, mean, inverse, gamma, beta, with_relu, gamma_slope, \
                                                beta_slope, means, shared, partials, counters, rows, channels))) \
    } \
    extern "C" __global__ void norm_backward_##suffix(const T *values, const T *slopes, const float *mean, \
                                                      const float *inverse, const float *gamma, const float *beta, \
                                                      u32 with_relu, const float *means, T *to, u32 accumulate, \
                                                      u32 rows, u32 channels) { \
        VECTORS(T, channels, (norm_backward<T, V>(values, slopes, mean, inverse, gamma, beta, with_relu, means, to, \
                                                  accumulate, rows, channels))) \
    } \
    extern "C" __global__ void relu_##suffix(const T *values, T *to, u32 all) { \
        VECTORS(T, all, (relu<T, V>(values, to, all))) \
    } \
    extern "C" __global__ void relu_backward_##suffix(const T *values, const T *slopes, T *to, u32 accumulate, \
                                                      u32 all) { \
        VECTORS(T, all, (relu_backward<T, V>(values, slopes, to, accumulate, all))) \
    } \
    extern "C" __global__ void copy_##suffix(const T *from, u32 from_stride, u32 from_offset, T *to, u32 to_stride, \
                                             u32 to_offset, u32 accumulate, u32 rows, u32 channels) { \
        VECTORS(T, channels | from_stride | from_offset | to_stride | to_offset, \
                (copy<T, V>(from, from_stride, from_offset, to, to_stride, to_offset, accumulate, rows, channels))) \
    } \
    extern "C" __global__ void dropout_##suffix(const T *values, T *to, const Step *step, const u64 *key, \
                                                float kept_scale, u64 threshold, u32 accumulate, u32 rows, \
                                                u32 channels) { \
        dropout<T>(values, to, step, key, kept_scale, threshold, accumulate, rows, channels); \
    } \
    extern "C" __global__ void max_pool_##suffix(const T *values, T *to, u16 *winners, Window pool) { \
        VECTORS(T, pool.channels, (max_pool<T, V>(values, to, winners, pool))) \
    } \
    extern "C" __global__ void max_pool_backward_##suffix(const u16 *winners, const T *slopes, T *to, \
                                                          u32 accumulate, Window pool) { \
        VECTORS(T, pool.channels, (max_pool_backward<T, V>(winners, slopes, to, accumulate, pool))) \
    } \
    extern "C" __global__ void average_pool_##suffix(const T *values, T *to, Window pool) { \
        VECTORS(T, pool.channels, (average_pool<T, V>(values, to, pool))) \
    } \
    extern "C" __global__ void average_pool_backward_##suffix(const T *slopes, T *to, u32 accumulate, Window pool) { \
        VECTORS(T, pool.channels, (average_pool_backward<T, V>(slopes, to, accumulate, pool))) \
    } \
    extern "C" __global__ void transposed_##suffix(const T *from, T *to, u32 accumulate, u32 count, u32 first, \
                                                   u32 second) { \
        transposed<T>(from, to, accumulate, count, first, second); \
    } \
    extern "C" __global__ void cross_entropy_##suffix(const T *logits, const Placed *placed, const Step *step, \
                                                      T *slopes, double *losses, u32 *hits, Report *reports, \
                                                      u32 *diverged, u32 *counter, u32 count, u32 classes) { \
        cross_entropy<T>(logits, placed, step, slopes, losses, hits, reports, diverged, counter, count, classes); \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
