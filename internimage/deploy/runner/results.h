// From the outputs of a model to what they say of a picture: the same as `internimage run` says.
#pragma once

#include <algorithm>
#include <iomanip>
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>

#include "artifact.h"

namespace internimage {

struct Reading {
  std::string json;               // members of an object
  std::vector<std::string> rows;  // the same for people
  at::Tensor labels;              // uint8 [H, W], or undefined; see internimage/tasks/artifact_results.py
};

using Outputs = std::map<std::string, at::Tensor>;
constexpr int64_t kNamed = 5;  // classes of a picture in text

class Joined {  // items between brackets
 public:
  template <typename Item>
  void add(const Item& item) {
    text_ << (text_.tellp() > 0 ? ", " : "") << std::setprecision(9) << item;
  }
  std::string list() const { return "[" + text_.str() + "]"; }

 private:
  std::ostringstream text_;
};

inline std::string row(double share, const std::string& name, const std::string& more = "") {
  std::ostringstream text;
  text << "  " << std::fixed << std::setprecision(2) << std::setw(6) << share * 100 << "%  " << name << more;
  return text.str();
}

inline std::string labelled(const std::vector<int64_t>& labels, const std::vector<double>& values, const Json& classes,
                            const char* what) {
  Joined numbers, names, shares;
  for (size_t i = 0; i < labels.size(); ++i) {
    numbers.add(labels[i]);
    names.add(quoted(classes.items.at(labels[i]).text));
    shares.add(values[i]);
  }
  return "\"labels\": " + numbers.list() + ", \"names\": " + names.list() + ", \"" + what + "\": " + shares.list();
}

inline Reading read_classification(const Outputs& outputs, const Json& classes) {
  const at::Tensor probabilities = outputs.at("logits")[0].softmax(0);
  const auto [values, indices] = probabilities.topk(std::min<int64_t>(kNamed, classes.items.size()));
  std::vector<int64_t> labels;
  std::vector<double> shares;
  Reading reading;
  for (int64_t i = 0; i < values.numel(); ++i) {
    labels.push_back(indices[i].item<int64_t>());
    shares.push_back(values[i].item<float>());
    reading.rows.push_back(row(shares.back(), classes.items.at(labels.back()).text));
  }
  reading.json = labelled(labels, shares, classes, "probabilities");
  return reading;
}

inline Reading read_features(const Outputs& outputs, const Json& names) {
  Joined maps;
  Reading reading;
  for (const Json& entry : names.items) {
    const at::Tensor& map = outputs.at(entry.text);
    Joined sizes;
    for (const int64_t size : map.sizes()) sizes.add(size);
    const double mean = map.mean().item<double>(), deviation = map.std(false).item<double>();
    std::ostringstream json, text;
    json << std::setprecision(9) << "{\"name\": " << quoted(entry.text) << ", \"shape\": " << sizes.list()
         << ", \"mean\": " << mean << ", \"deviation\": " << deviation << "}";
    text << std::setprecision(4) << "  " << entry.text << ": " << sizes.list() << ", mean " << mean << ", deviation "
         << deviation;
    maps.add(json.str());
    reading.rows.push_back(text.str());
  }
  reading.json = "\"maps\": " + maps.list();
  return reading;
}

inline Reading read_segmentation(const Outputs& outputs, const Json& classes, int64_t height, int64_t width) {
  const at::Tensor scores = at::upsample_bilinear2d(outputs.at("scores"), {height, width}, false);
  Reading reading;
  reading.labels = scores.argmax(1)[0].to(at::kByte);
  const at::Tensor counts = at::bincount(reading.labels.flatten().to(at::kLong), {}, classes.items.size());
  std::vector<int64_t> labels;
  for (int64_t label = 0; label < counts.numel(); ++label) {
    if (counts[label].item<int64_t>()) labels.push_back(label);
  }
  const auto pixels = counts.const_data_ptr<int64_t>();
  std::stable_sort(labels.begin(), labels.end(), [pixels](auto a, auto b) { return pixels[a] > pixels[b]; });
  std::vector<double> shares;
  for (const int64_t label : labels) shares.push_back(double(pixels[label]) / (height * width));
  const int64_t count = labels.size();
  for (int64_t i = 0; i < std::min(kNamed, count); ++i) {
    reading.rows.push_back(row(shares[i], classes.items.at(labels[i]).text));
  }
  if (count > kNamed) reading.rows.push_back("           and " + std::to_string(count - kNamed) + " more");
  reading.json = labelled(labels, shares, classes, "shares");
  return reading;
}

// [pixels, cells]: what each cell of a box contributes to each pixel by linear interpolation.
inline at::Tensor cell_weights(const at::Tensor& begin, const at::Tensor& end, int64_t cells, int64_t first,
                               int64_t last) {
  const at::Tensor centre = at::arange(first, last, at::kFloat) + 0.5;
  const at::Tensor place = (centre - begin) / (end - begin) * cells - 0.5;
  return (1 - (place.unsqueeze(1) - at::arange(cells)).abs()).clamp_min(0).nan_to_num();
}

// [height, width], bool: probabilities over a box, stretched over it and cut at one half.
inline at::Tensor pasted(const at::Tensor& probabilities, const at::Tensor& box, int64_t height, int64_t width) {
  const auto touched = [](float begin, float end, int64_t side) {  // the pixels that a box can reach, and those beside
    const int64_t first = std::min(std::max<int64_t>(std::floor(begin) - 1, 0), side);
    return std::pair(first, std::min(std::max<int64_t>(std::ceil(end) + 1, first), side));
  };
  const auto [left, right] = touched(box[0].item<float>(), box[2].item<float>(), width);
  const auto [top, bottom] = touched(box[1].item<float>(), box[3].item<float>(), height);
  at::Tensor mask = at::zeros({height, width}, at::kBool);
  const at::Tensor along_y = cell_weights(box[1], box[3], probabilities.size(0), top, bottom);
  const at::Tensor along_x = cell_weights(box[0], box[2], probabilities.size(1), left, right);
  const at::Tensor stretched = along_y.matmul(probabilities).matmul(along_x.t());
  mask.slice(0, top, bottom).slice(1, left, right).copy_(stretched >= 0.5);
  return mask;
}

inline Reading read_detection(const Outputs& outputs, const Tensors& inputs, const Json& classes, int64_t height,
                              int64_t width, double threshold) {
  const at::Tensor scores = outputs.at("scores")[0].slice(0, 0, outputs.at("counts")[0].item<int64_t>());
  const auto count = (scores >= threshold).sum().item<int64_t>();
  const at::Tensor seen = inputs.at(1)[0];
  const float scale_x = float(double(width) / seen[1].item<int64_t>());
  const float scale_y = float(double(height) / seen[0].item<int64_t>());
  const auto corners = [](float x, float y) { return at::tensor({x, y, x, y}, at::kFloat); };
  const at::Tensor boxes = at::minimum((outputs.at("boxes")[0].slice(0, 0, count) * corners(scale_x, scale_y)).clamp_min(0),
                                       corners(float(width), float(height)));
  Reading reading;
  Joined objects;
  const bool masks = outputs.count("masks");
  if (masks) reading.labels = at::zeros({height, width}, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    const auto label = outputs.at("labels")[0][i].item<int64_t>();
    const std::string& name = classes.items.at(label).text;
    const double score = scores[i].item<float>();
    Joined box;
    std::ostringstream text, json;
    for (int side = 0; side < 4; ++side) {
      box.add(boxes[i][side].item<float>());
      text << " " << std::fixed << std::setprecision(1) << boxes[i][side].item<float>();
    }
    json << std::setprecision(9) << "{\"label\": " << label << ", \"name\": " << quoted(name)
         << ", \"score\": " << score << ", \"box\": " << box.list();
    if (masks) {
      const at::Tensor mask = pasted(outputs.at("masks")[0][i], boxes[i], height, width);
      json << ", \"mask_pixels\": " << mask.sum().item<int64_t>();
      if (i < 255) reading.labels.masked_fill_(mask.logical_and(reading.labels == 0), i + 1);
    }
    objects.add(json.str() + "}");
    reading.rows.push_back(row(score, name, " " + text.str()));
  }
  if (!count) reading.rows.push_back("  nothing");
  reading.json = "\"height\": " + std::to_string(height) + ", \"width\": " + std::to_string(width) +
                 ", \"objects\": " + objects.list();
  return reading;
}

// Args: outputs and inputs of the model for one picture; the picture's height and width; least score of objects.
inline Reading read_outputs(const Artifact& artifact, const Tensors& outputs, const Tensors& inputs, int64_t height,
                            int64_t width, double threshold) {
  const auto named = artifact.named(outputs);
  const Json& task = artifact.task();
  const std::string& kind = task["kind"].text;
  if (kind == "features") return read_features(named, artifact.manifest()["outputs"]);
  const Json& classes = task["classes"];
  if (kind == "classification") return read_classification(named, classes);
  if (kind == "segmentation") return read_segmentation(named, classes, height, width);
  if (kind == "detection") return read_detection(named, inputs, classes, height, width, threshold);
  fail("the model does ", kind, ", which this program doesn't know; build it again");
}

}  // namespace internimage
