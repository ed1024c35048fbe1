// From a picture file to the inputs of a model, as internimage.tasks does it in Python, with OpenCV.
#pragma once

#include <cmath>

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "artifact.h"

namespace internimage {

// RGB of 8 bits, upright. Transparent pixels are blended with white.
inline cv::Mat read_picture(const fs::path& path) {
  const std::string data = read_file(path);
  const bool jpeg = data.rfind("\xff\xd8\xff", 0) == 0;
  cv::Mat picture;
  try {
    const cv::Mat bytes(1, static_cast<int>(data.size()), CV_8U, const_cast<char*>(data.data()));
    if (!jpeg) picture = cv::imdecode(bytes, cv::IMREAD_UNCHANGED);
    if (!picture.empty() && picture.channels() == 4) {
      const float white = picture.depth() == CV_16U ? 65535.f : 255.f;
      cv::Mat blended(picture.size(), CV_8UC3), scaled;
      picture.convertTo(scaled, CV_32F, 1.0 / white);
      for (int y = 0; y < scaled.rows; ++y) {
        for (int x = 0; x < scaled.cols; ++x) {
          const auto& pixel = scaled.at<cv::Vec4f>(y, x);
          for (int c = 0; c < 3; ++c) {
            const float value = pixel[2 - c] * pixel[3] + (1 - pixel[3]);
            blended.at<cv::Vec3b>(y, x)[c] = static_cast<uint8_t>(std::nearbyint(value * 255));
          }
        }
      }
      return blended;
    }
    picture = cv::imdecode(bytes, cv::IMREAD_COLOR);
  } catch (const cv::Exception& error) {
    fail(path.string(), ": can't be decoded: ", error.err);
  }
  if (picture.empty()) fail(path.string(), ": not a picture that OpenCV can decode, or damaged");
  cv::cvtColor(picture, picture, cv::COLOR_BGR2RGB);
  return picture;
}

inline cv::Mat crop(const cv::Mat& picture, int height, int width) {
  const int top = static_cast<int>(std::nearbyint((picture.rows - height) / 2.0));
  const int left = static_cast<int>(std::nearbyint((picture.cols - width) / 2.0));
  return picture(cv::Rect(left, top, width, height));
}

inline at::Tensor to_tensor(const cv::Mat& picture) {  // [1, 3, H, W]
  const cv::Mat whole = picture.isContinuous() ? picture : picture.clone();
  return at::from_blob(whole.data, {1, whole.rows, whole.cols, 3}, at::kByte).permute({0, 3, 1, 2}).contiguous();
}

// The shorter side to `side` pixels, bicubic with antialiasing, and the middle cut out.
inline at::Tensor middle_square(const cv::Mat& picture, int64_t side) {
  const int longest = 32 * std::min(picture.rows, picture.cols);  // of a strip only the middle
  const cv::Mat part = crop(picture, std::min(picture.rows, longest), std::min(picture.cols, longest));
  const int64_t shorter = std::min(part.rows, part.cols);
  const int64_t height = side * part.rows / shorter, width = side * part.cols / shorter;
  const at::Tensor resized = at::_upsample_bicubic2d_aa(to_tensor(part), {height, width}, false);
  const auto top = static_cast<int64_t>(std::nearbyint((height - side) / 2.0));
  const auto left = static_cast<int64_t>(std::nearbyint((width - side) / 2.0));
  return resized.slice(2, top, top + side).slice(3, left, left + side).contiguous();
}

inline cv::Size scaled(const cv::Size& size, double factor) {
  const auto side = [factor](int pixels) { return std::max(1, static_cast<int>(pixels * factor + 0.5)); };
  return {side(size.width), side(size.height)};
}

// Of a picture in the image, and of the image.
inline std::pair<cv::Size, cv::Size> sizes_in(const cv::Size& picture, const Json& view) {
  const int divisor = static_cast<int>(view["divisor"].integer());
  const auto limit = [&view](int axis, int which) {
    return static_cast<int>(view["within"].items.at(axis).items.at(which).integer());
  };
  const auto greatest = [&](int axis) { return std::max(limit(axis, 0), limit(axis, 1) / divisor * divisor); };
  cv::Size size = picture;
  if (const Json& bounds = view["bounds"]; !bounds.is_null()) {
    const double a = bounds.items.at(0).number, b = bounds.items.at(1).number;
    size = scaled(size, std::min(std::max(a, b) / std::max(size.width, size.height),
                                 std::min(a, b) / std::min(size.width, size.height)));
  }
  size = scaled(size, std::min({1.0, double(greatest(0)) / size.height, double(greatest(1)) / size.width}));
  const auto image_side = [&](int side, int axis) {
    return std::min(std::max((side + divisor - 1) / divisor * divisor, limit(axis, 0)), greatest(axis));
  };
  return {size, {image_side(size.width, 1), image_side(size.height, 0)}};
}

inline cv::Mat resized(const cv::Mat& picture, const cv::Size& size) {
  if (picture.size() == size) return picture;
  cv::Mat result;
  cv::resize(picture, result, size, 0, 0, cv::INTER_LINEAR);
  return result;
}

// Bytes [1, 3, H, W] -> the form of pixels that the model wants.
inline at::Tensor in_form(const at::Tensor& bytes, const Json& task) {
  const std::string& form = task["pixels"].text;
  if (form == "uint8") return bytes;
  if (form == "0-255") return bytes.to(at::kFloat);
  if (form == "0-1") return bytes.to(at::kFloat) * (1.0 / 255);
  const auto column = [&task](const char* name) {
    at::Tensor values = at::empty({3, 1, 1}, at::kFloat);
    for (int i = 0; i < 3; ++i) values[i] = task[name].items.at(i).number;
    return values;
  };
  return (bytes.to(at::kFloat) / 255 - column("mean")) / column("std");
}

// A picture -> image [1, 3, h, w]; for a detector with its size without padding, [1, 2].
inline Tensors picture_inputs(const cv::Mat& picture, const Json& task) {
  const Json& view = task["view"];
  if (view.has("crop")) return {in_form(middle_square(picture, view["crop"].integer()), task)};
  const auto [size, stretched] = sizes_in(picture.size(), view);
  const cv::Mat seen = resized(picture, size);
  if (!view["pad"].number) return {in_form(to_tensor(resized(seen, stretched)), task)};
  const std::vector<int64_t> padding = {0, stretched.width - size.width, 0, stretched.height - size.height};
  const at::Tensor image = at::constant_pad_nd(in_form(to_tensor(seen), task), padding, 0);
  const std::vector<int64_t> sides = {size.height, size.width};
  return {image, at::tensor(sides, at::kLong).view({1, 2})};
}

}  // namespace internimage
