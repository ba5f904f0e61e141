// The kernels behind reference.py: one body an element, in float arithmetic whatever the type of the tensors.
// No header of PyTorch's is used: tensors come as pointers, sizes and strides, counted in elements.

#include "launch.h"

// A dense tensor [N, C, P pixels], in memory either channel by channel or pixel by pixel (channels_last).
template <typename Index>
struct Layout {
    Index channels, pixels;
    bool channels_last;

    HOST_DEVICE Index channel(Index i) const { return channels_last ? i % channels : i / pixels % channels; }
    HOST_DEVICE Index pixel(Index i) const { return channels_last ? i / channels % pixels : i % pixels; }
    HOST_DEVICE Index picture(Index i) const { return i / (channels * pixels); }
};

// y = clamp(gain * lrelu(x * scale[n, c] + noise[n, p] + bias[c])). scale, noise and bias may be null; a noise
// common to all pictures has noise_step 0, else P. A negative clamp is none.
template <typename T, typename Index>
struct Epilogue {
    const T* x;
    T* y;
    const float *scale, *noise, *bias;
    Layout<Index> layout;
    Index noise_step;
    float slope, gain, clamp;

    HOST_DEVICE void operator()(Index i) const {
        float value = load(x + i);
        const Index c = layout.channel(i), n = layout.picture(i);
        if (scale) value *= scale[n * layout.channels + c];
        if (noise) value += noise[n * noise_step + layout.pixel(i)];
        if (bias) value += bias[c];
        value *= value > 0 ? gain : gain * slope;
        if (clamp >= 0) value = value > clamp ? clamp : value < -clamp ? -clamp : value;
        store(y + i, value);
    }
};

// The gradient that reaches lrelu's argument, from that of y and y itself.
template <typename T, typename Index>
struct EpilogueGrad {
    const T *dy, *y;
    T* du;
    float slope, gain, clamp;

    HOST_DEVICE void operator()(Index i) const {
        const float value = load(y + i);
        const bool is_clamped = clamp >= 0 && (value >= clamp || value <= -clamp);
        store(du + i, is_clamped ? 0.0f : load(dy + i) * (value > 0 ? gain : gain * slope));
    }
};

// Everything about an upfirdn2d; field for field the structure of kernels.py.
struct Resample {
    int64_t count;                                           // of y's elements
    int64_t channels, in_height, in_width, out_height, out_width;
    int64_t stride_n, stride_c, stride_y, stride_x;          // of x
    int64_t up_x, up_y, down_x, down_y, left, top;
    int64_t filter_height, filter_width;
    int64_t flip, channels_last;                             // channels_last: y's format
    double gain;
};

// SIZE, UP and DOWN are known when compiling for the usual filters, so that the loops unroll; 0 is any.
template <typename T, typename Index, int SIZE, int UP, int DOWN>
struct UpFirDn {
    const T* x;
    const float* f;
    T* y;
    Resample r;

    HOST_DEVICE void operator()(Index i) const {
        const int filter_height = SIZE ? SIZE : static_cast<int>(r.filter_height);
        const int filter_width = SIZE ? SIZE : static_cast<int>(r.filter_width);
        const int up_x = UP ? UP : static_cast<int>(r.up_x), up_y = UP ? UP : static_cast<int>(r.up_y);
        const int down_x = DOWN ? DOWN : static_cast<int>(r.down_x), down_y = DOWN ? DOWN : static_cast<int>(r.down_y);
        const Index width = static_cast<Index>(r.out_width), pixels = static_cast<Index>(r.out_height) * width;
        const Layout<Index> layout{static_cast<Index>(r.channels), pixels, r.channels_last != 0};
        const Index p = layout.pixel(i);
        // Where the filter begins in the upsampled picture, and its first tap that does not meet an inserted zero.
        const int64_t from_y = static_cast<int64_t>(p / width) * down_y - r.top;
        const int64_t from_x = static_cast<int64_t>(p % width) * down_x - r.left;
        const int first_y = static_cast<int>((up_y - from_y % up_y) % up_y);
        const int first_x = static_cast<int>((up_x - from_x % up_x) % up_x);
        const T* source = x + layout.picture(i) * r.stride_n + layout.channel(i) * r.stride_c;

        float sum = 0;
#pragma unroll
        for (int a = 0; a < (filter_height + up_y - 1) / up_y; ++a) {
            const int tap_y = first_y + a * up_y;
            const int64_t in_y = (from_y + tap_y) / up_y;
            if (tap_y >= filter_height || from_y + tap_y < 0 || in_y >= r.in_height) continue;
#pragma unroll
            for (int b = 0; b < (filter_width + up_x - 1) / up_x; ++b) {
                const int tap_x = first_x + b * up_x;
                const int64_t in_x = (from_x + tap_x) / up_x;
                if (tap_x >= filter_width || from_x + tap_x < 0 || in_x >= r.in_width) continue;
                const int tap = r.flip ? tap_y * filter_width + tap_x
                                       : (filter_height - 1 - tap_y) * filter_width + filter_width - 1 - tap_x;
                sum += f[tap] * load(source + in_y * r.stride_y + in_x * r.stride_x);
            }
        }
        store(y + i, sum * static_cast<float>(r.gain));
    }
};

// Indices have 32 bits where they suffice: division, of which there are some, is far slower in 64.
constexpr int64_t SMALL = INT32_MAX;

template <typename T>
struct Run {
    static int epilogue(const void* x, void* y, const float* scale, const float* noise, const float* bias,
                        int64_t count, int64_t channels, int64_t pixels, int channels_last, int64_t noise_step,
                        float slope, float gain, float clamp, void* stream) {
        const auto go = [&](auto index) {
            using Index = decltype(index);
            return for_each<Index>(
                Epilogue<T, Index>{static_cast<const T*>(x), static_cast<T*>(y), scale, noise, bias,
                                   Layout<Index>{static_cast<Index>(channels), static_cast<Index>(pixels), channels_last != 0},
                                   static_cast<Index>(noise_step), slope, gain, clamp},
                count, stream);
        };
        return count <= SMALL ? go(int32_t{}) : go(int64_t{});
    }

    static int epilogue_grad(const void* dy, const void* y, void* du, int64_t count, float slope, float gain,
                             float clamp, void* stream) {
        return for_each<int64_t>(EpilogueGrad<T, int64_t>{static_cast<const T*>(dy), static_cast<const T*>(y),
                                                          static_cast<T*>(du), slope, gain, clamp},
                                 count, stream);
    }

    template <int SIZE, int UP, int DOWN>
    static int upfirdn2d_as(const void* x, const float* f, void* y, const Resample& r, void* stream) {
        const auto go = [&](auto index) {
            using Index = decltype(index);
            return for_each<Index>(
                UpFirDn<T, Index, SIZE, UP, DOWN>{static_cast<const T*>(x), f, static_cast<T*>(y), r}, r.count, stream);
        };
        return r.count <= SMALL ? go(int32_t{}) : go(int64_t{});
    }

    static int upfirdn2d(const void* x, const float* f, void* y, const Resample* r, void* stream) {
        if (r->filter_height == 4 && r->filter_width == 4 && r->up_x == r->up_y && r->down_x == r->down_y) {
            if (r->up_x == 1 && r->down_x == 1) return upfirdn2d_as<4, 1, 1>(x, f, y, *r, stream);
            if (r->up_x == 2 && r->down_x == 1) return upfirdn2d_as<4, 2, 1>(x, f, y, *r, stream);
            if (r->up_x == 1 && r->down_x == 2) return upfirdn2d_as<4, 1, 2>(x, f, y, *r, stream);
        }
        return upfirdn2d_as<0, 0, 0>(x, f, y, *r, stream);
    }
};

// The types: 0 float, 1 half, 2 bfloat16. Each function returns a cudaError_t, 0 for success.
#define DISPATCH(function, ...)                                     \
    (dtype == 0   ? Run<float>::function(__VA_ARGS__)               \
     : dtype == 1 ? Run<Half>::function(__VA_ARGS__)                \
                  : Run<BFloat16>::function(__VA_ARGS__))

extern "C" {

int stylegan2_epilogue(int dtype, const void* x, void* y, const float* scale, const float* noise,
                       const float* bias, int64_t count, int64_t channels, int64_t pixels, int channels_last,
                       int64_t noise_step, float slope, float gain, float clamp, void* stream) {
    return DISPATCH(epilogue, x, y, scale, noise, bias, count, channels, pixels, channels_last, noise_step, slope,
                    gain, clamp, stream);
}

int stylegan2_epilogue_grad(int dtype, const void* dy, const void* y, void* du, int64_t count, float slope,
                            float gain, float clamp, void* stream) {
    return DISPATCH(epilogue_grad, dy, y, du, count, slope, gain, clamp, stream);
}

int stylegan2_upfirdn2d(int dtype, const void* x, const float* f, void* y, const Resample* r, void* stream) {
    return DISPATCH(upfirdn2d, x, f, y, r, stream);
}

}  // extern "C"
