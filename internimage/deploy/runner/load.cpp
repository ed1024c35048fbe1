// internimage_load ARTIFACT: many requests of mixed sizes from several threads. Every answer is compared with the one
// that the same request had when it was alone.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <iostream>
#include <random>
#include <thread>

#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>

#include "artifact.h"
#include "options.h"

namespace {

using namespace internimage;
using Clock = std::chrono::steady_clock;

const char kUsage[] =
    "usage: internimage_load ARTIFACT [--runners N] [--requests M] [--batch B] [--alike] [--size HxW]... [--threads T]\n"
    "  --runners N: threads that ask, and calls that the package computes at the same time (1)\n"
    "  --requests M: of all threads together (1000)\n"
    "  --batch B: images of a request; requests of one image come among them (1)\n"
    "  --alike: no requests of one image\n"
    "  --size HxW: of the images; of several each request takes one\n"
    "  --threads T: of one call (1)\n"
    "prints one line of JSON\n";

struct Options {
  fs::path artifact;
  int runners = 1, requests = 1000, batch = 1, threads = 1;
  bool alike = false;
  std::vector<std::pair<int, int>> sizes;
};

std::pair<int, int> size(const std::string& option, const std::string& word) {
  const size_t x = word.find('x');
  if (x == std::string::npos) fail(option, " must be HEIGHTxWIDTH, such as 224x320, got ", quoted(word));
  const auto side = [&](const std::string& part) { return number(option, part, 1, 1'000'000); };
  return {side(word.substr(0, x)), side(word.substr(x + 1))};
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help") {
      std::cout << kUsage;
      std::exit(0);
    }
    if (word.rfind("--", 0) != 0) {
      options.artifact = word;
      continue;
    }
    if (word == "--alike") {
      options.alike = true;
      continue;
    }
    if (++i == argc) fail(word, " wants a value\n", kUsage);
    const std::string value = argv[i];
    if (word == "--runners") options.runners = number(word, value, 1, kMostThreads);
    else if (word == "--requests") options.requests = number(word, value, 1, 100'000'000);
    else if (word == "--batch") options.batch = number(word, value, 1, 1'000'000);
    else if (word == "--threads") options.threads = number(word, value, 1, kMostThreads);
    else if (word == "--size") options.sizes.push_back(size(word, value));
    else fail("unknown option ", word, "\n", kUsage);
  }
  if (options.artifact.empty() || options.sizes.empty()) fail("an artifact and at least one --size are needed\n", kUsage);
  return options;
}

Tensors make_request(const Artifact& artifact, int64_t batch, int64_t height, int64_t width) {
  Tensors inputs;
  for (const Json& spec : artifact.manifest()["inputs"].items) {
    const auto& shape = spec["shape"].items;
    const auto dtype = dtype_of(spec["dtype"].text);
    if (shape.size() == 4) {
      const at::Tensor image = at::rand({batch, shape[1].integer(), height, width});
      inputs.push_back(dtype == at::kByte ? (image * 255).to(dtype) : image.to(dtype));
    } else {  // sizes of images without padding
      const std::vector<int64_t> sides = {height, width};
      inputs.push_back(at::tensor(sides, at::kLong).expand({batch, 2}).contiguous());
    }
    inputs.back() = inputs.back().to(artifact.device());
  }
  return inputs;
}

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE) / (1 << 20);
}

bool same(const Tensors& got, const Tensors& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!at::allclose(got[i].to(at::kFloat), expected[i].to(at::kFloat), 1e-4, 1e-4)) return false;
  }
  return true;
}

int run(const Options& options) {
  at::set_num_threads(options.threads);
  const Artifact artifact(options.artifact, options.runners);
  std::vector<Tensors> requests, expected;
  for (const auto& [height, width] : options.sizes) {
    requests.push_back(make_request(artifact, options.batch, height, width));
    if (!options.alike && options.batch > 1) requests.push_back(make_request(artifact, 1, height, width));
  }
  for (const Tensors& request : requests) expected.push_back(artifact(request));

  std::atomic<int> next = 0, errors = 0, wrong = 0;
  std::vector<double> latencies(options.requests);
  const int warm = options.requests / 5;  // until then caches and allocators fill
  std::atomic<double> warm_mib = resident_mib();
  const auto serve = [&](unsigned seed) {
    at::set_num_threads(options.threads);  // it belongs to the thread
    std::mt19937 random(seed);
    for (int i = next++; i < options.requests; i = next++) {
      if (i == warm) warm_mib = resident_mib();
      const size_t choice = random() % requests.size();
      const auto start = Clock::now();
      try {
        const Tensors got = artifact(requests[choice]);
        latencies[i] = std::chrono::duration<double>(Clock::now() - start).count();
        if (!same(got, expected[choice])) ++wrong;
      } catch (const std::exception& error) {
        if (!errors++) std::cerr << error.what() << "\n";
      }
    }
  };
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < options.runners; ++i) threads.emplace_back(serve, i);
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::sort(latencies.begin(), latencies.end());
  std::printf(
      "{\"requests\": %d, \"errors\": %d, \"wrong\": %d, \"runners\": %d, \"seconds\": %.3f, \"per_second\": %.2f, "
      "\"median_s\": %.5f, \"p99_s\": %.5f, \"warm_mib\": %.1f, \"end_mib\": %.1f}\n",
      options.requests, errors.load(), wrong.load(), options.runners, seconds, options.requests / seconds,
      latencies[latencies.size() / 2], latencies[latencies.size() * 99 / 100], warm_mib.load(), resident_mib());
  return errors || wrong;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "internimage_load: error: " << error.what() << "\n";
    return 1;
  }
}
