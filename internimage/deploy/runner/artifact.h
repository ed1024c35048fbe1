// A deployed model: loads the folder that `internimage export --format aoti` wrote, and checks every call.
#pragma once

#include <dlfcn.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include "json.h"
#include "sha256.h"

namespace internimage {

namespace fs = std::filesystem;
using Tensors = std::vector<at::Tensor>;

// What a user can mend; the text says how.
struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw UserError(text.str());
}

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path)) fail(path.string(), ": can't be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

inline at::ScalarType dtype_of(const std::string& name) {
  static const std::map<std::string, at::ScalarType> types = {
      {"float32", at::kFloat}, {"uint8", at::kByte},     {"int64", at::kLong}, {"F32", at::kFloat},
      {"U8", at::kByte},       {"I64", at::kLong},       {"BOOL", at::kBool},  {"float64", at::kDouble},
      {"F64", at::kDouble},    {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  const auto found = types.find(name);
  if (found == types.end()) fail("a tensor has the type ", name, ", which this program doesn't know");
  return found->second;
}

// Tensors of a safetensors file, by name.
inline std::map<std::string, at::Tensor> read_safetensors(const fs::path& path) {
  const std::string data = read_file(path);
  uint64_t length = 0;
  for (int i = 7; i >= 0 && data.size() >= 8; --i) length = length << 8 | uint8_t(data[i]);
  if (data.size() < 8 || length > data.size() - 8) fail(path.string(), ": truncated; copy it again");
  const Json header = JsonReader::read(data.substr(8, length));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, entry] : header.members) {
    if (name == "__metadata__") continue;
    std::vector<int64_t> shape;
    for (const Json& size : entry["shape"].items) shape.push_back(size.integer());
    at::Tensor tensor = at::empty(shape, dtype_of(entry["dtype"].text));
    const uint64_t begin = 8 + length + entry["data_offsets"].items.at(0).integer();
    if (begin + tensor.nbytes() > data.size()) fail(path.string(), ": truncated; copy it again");
    std::memcpy(tensor.data_ptr(), data.data() + begin, tensor.nbytes());
    tensors[name] = tensor;
  }
  return tensors;
}

// Operating system and processor, as the manifest names them: "linux-x86_64".
inline std::string platform_name() {
  utsname here{};
  uname(&here);
  std::string system = here.sysname;
  std::transform(system.begin(), system.end(), system.begin(), [](unsigned char c) { return std::tolower(c); });
  return system + "-" + here.machine;
}

// How far numbers are from those wanted: of floating numbers the largest difference, relative to the largest value; of
// whole numbers, such as labels, the share that differs; infinity where shapes differ or a number is not finite.
// `unordered`: compare them sorted along the second axis.
inline double difference(at::Tensor got, at::Tensor wanted, bool unordered) {
  if (got.sizes() != wanted.sizes()) return INFINITY;
  if (!got.numel()) return 0;
  if (unordered && got.dim() > 1) {
    got = std::get<0>(got.sort(1));
    wanted = std::get<0>(wanted.sort(1));
  }
  if (!wanted.is_floating_point()) return got.ne(wanted).to(at::kDouble).mean().item<double>();
  wanted = wanted.to(at::kDouble);
  const double most = (got.to(at::kDouble) - wanted).abs().max().item<double>();  // NaN where either has one
  return std::isfinite(most) ? most / std::max(wanted.abs().max().item<double>(), 1e-12) : INFINITY;
}

class Artifact {
 public:
  // `runners` calls are computed at the same time; more wait. Threads may make artifacts at the same time. Throws
  // UserError.
  explicit Artifact(const fs::path& folder, int runners = 1) : folder_(folder) {
    static std::mutex loading;  // neither the operators nor torch's loader bear two threads (pytorch/pytorch#194128)
    const std::lock_guard lock(loading);
    if (!fs::is_regular_file(folder / "manifest.json")) {
      fail(folder.string(), ": not a deployed model: it has no manifest.json; `internimage export` makes one");
    }
    try {
      manifest_ = JsonReader::read(read_file(folder / "manifest.json"));
      check_manifest();
      load_operators();
    } catch (const UserError&) {
      throw;
    } catch (const std::runtime_error& error) {
      fail((folder / "manifest.json").string(), ": ", error.what(), "; copy it again");
    }
    const fs::path model = folder / manifest_["model"].text;
    try {
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(model.string(), "model", false, runners);
    } catch (const std::exception& error) {
      fail(model.string(), ": can't be loaded: ", first_line(error.what()), "; copy it, or export it, again");
    }
  }

  const Json& manifest() const { return manifest_; }
  const Json& task() const { return manifest_["task"]; }

  // Throws UserError where the inputs are not those that the model was exported for: it would compute wrong numbers
  // without a word.
  Tensors operator()(Tensors inputs) const {
    check(inputs);
    c10::InferenceMode guard;
    for (at::Tensor& input : inputs) input = input.contiguous();
    return loader_->run(inputs);
  }

  std::map<std::string, at::Tensor> named(const Tensors& outputs) const {
    const auto& names = manifest_["outputs"].items;
    std::map<std::string, at::Tensor> result;
    for (size_t i = 0; i < names.size(); ++i) result[names[i].text] = outputs.at(i).cpu();
    return result;
  }

  // The greatest difference of an output for the sample from what it should be.
  double difference() const {
    const auto stored = read_safetensors(folder_ / manifest_["sample"].text);
    Tensors inputs;
    for (const Json& input : manifest_["inputs"].items) {
      inputs.push_back(stored.at("input." + input["name"].text).to(device()));
    }
    const bool unordered = manifest_.has("unordered") && manifest_["unordered"].number;
    double worst = 0;
    for (const auto& [name, got] : named((*this)(inputs))) {
      worst = std::max(worst, internimage::difference(got, stored.at("output." + name), unordered));
    }
    return worst;
  }

  at::Device device() const { return at::Device(manifest_["device"].text); }

 private:
  void check_manifest() const {
    const std::string where = folder_.string();
    if (manifest_["layout"].integer() != 1) {
      fail(where, ": has layout ", manifest_["layout"].integer(), ", expected 1; build this program again");
    }
    if (manifest_["format"].text != "aoti") {
      fail(where, ": has format ", manifest_["format"].text, ", expected aoti; export it with --format aoti");
    }
    const std::string torch = manifest_["versions"]["torch"].text;
    const std::string here = std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR);
    if (torch.rfind(here + ".", 0) != 0) {
      fail(where, ": was compiled by torch ", torch, ", this is torch ", TORCH_VERSION, "; export the model again with ",
           "this one, or build this program with that one");
    }
    const std::string& platform = manifest_["platform"].text;
    if (!platform.empty() && platform != platform_name()) {
      fail(where, ": was compiled for ", platform, ", this is ", platform_name(), "; export it here");
    }
    const auto here_capabilities = at::cpu::get_cpu_capabilities();
    std::string missing;
    for (const Json& needed : manifest_["capabilities"].items) {
      const auto found = here_capabilities.find(needed.text);
      if (found == here_capabilities.end() || !found->second.isBool() || !found->second.toBool()) {
        missing += (missing.empty() ? "" : ", ") + needed.text;
      }
    }
    if (!missing.empty()) {
      fail(where, ": was compiled for a processor with ", missing, ", which this one has not got; export it here, or ",
           "with processor avx2 or baseline");
    }
    if (manifest_["device"].text == "cuda" && !at::hasCUDA()) {
      fail(where, ": was made for cuda, which is not available here; export the model on the CPU");
    }
    for (const auto& [name, size] : manifest_["sizes"].members) {
      const fs::path path = folder_ / name;
      if (!fs::is_regular_file(path)) fail(path.string(), ": is missing; copy the folder again");
      const auto bytes = static_cast<int64_t>(fs::file_size(path));
      if (bytes != size.integer()) {
        fail(path.string(), ": truncated: it has ", bytes, " bytes, expected ", size.integer(), "; copy it again");
      }
    }
  }

  void load_operators() const {
    const Json& operators = manifest_["operators"];
    if (operators.is_null()) return;
    const fs::path path = fs::absolute(folder_ / operators["file"].text);
    if (!fs::is_regular_file(path)) {
      fail(path.string(), ": the operators' library is missing; copy the folder again");
    }
    if (sha256(read_file(path)) != operators["sha256"].text) {
      fail(path.string(), ": is not the operators' library that the model was exported with; copy it again");
    }
    static std::string loaded;  // the operators are defined once in a process
    if (!loaded.empty() && loaded != operators["sha256"].text) {
      fail(path.string(), ": another library of the operators is loaded already; use one for all models of a program");
    }
    if (loaded.empty() && !dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) fail(dlerror());
    loaded = operators["sha256"].text;
  }

  void check(const Tensors& inputs) const {
    const auto& specs = manifest_["inputs"].items;
    if (inputs.size() != specs.size()) {
      fail(folder_.string(), ": expected ", specs.size(), " inputs, got ", inputs.size());
    }
    std::map<std::string, int64_t> free;
    for (size_t i = 0; i < specs.size(); ++i) {
      const at::Tensor& input = inputs[i];
      const auto& shape = specs[i]["shape"].items;
      const auto fail_here = [&](const auto&... got) {
        fail(folder_.string(), ": input ", i, " must be ", describe(specs[i]), " on ", device(), ", got ", got...);
      };
      if (input.scalar_type() != dtype_of(specs[i]["dtype"].text)) fail_here("dtype ", input.scalar_type());
      if (input.device().type() != device().type()) fail_here("a tensor on ", input.device());
      bool fits = input.dim() == static_cast<int64_t>(shape.size());
      for (int64_t axis = 0; fits && axis < input.dim(); ++axis) {
        const Json& size = shape[axis];
        const bool fixed = size.kind == Json::Kind::number;
        const int64_t least = (fixed ? size : size["min"]).integer(), most = (fixed ? size : size["max"]).integer();
        fits = least <= input.size(axis) && input.size(axis) <= most;
        if (fits && !fixed && free.emplace(size["name"].text, input.size(axis)).first->second != input.size(axis)) {
          fail_here(input.sizes(), ": its ", input.size(axis), " must equal the same dimension elsewhere");
        }
      }
      if (!fits) fail_here(input.sizes(), "; export the model again for other sizes");
    }
  }

  static std::string describe(const Json& spec) {
    std::string text = spec["dtype"].text + " [";
    for (const Json& size : spec["shape"].items) {
      if (text.back() != '[') text += ", ";
      text += size.kind == Json::Kind::number
                  ? std::to_string(size.integer())
                  : std::to_string(size["min"].integer()) + " to " + std::to_string(size["max"].integer());
    }
    return text + "]";
  }

  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

  fs::path folder_;
  Json manifest_;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace internimage
