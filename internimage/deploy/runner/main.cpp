// internimage_run ARTIFACT [IMAGE...]: what a deployed model says of pictures, without Python.
#include <iostream>

#include "artifact.h"
#include "options.h"
#include "results.h"
#ifdef WITH_OPENCV
#include "picture_files.h"
#include "pictures.h"
#endif

namespace {

using namespace internimage;

const char kUsage[] =
    "usage: internimage_run ARTIFACT [IMAGE...] [--json] [--output DIR] [--threshold T] [--threads N]\n"
    "  without IMAGE: check the artifact, by its outputs for its sample\n"
    "  --output DIR: write a grey PNG of each picture: a segmentor's classes, or the numbers of a detector's objects\n"
    "  --threshold T: least score of objects (0.3)\n";

struct Options {
  fs::path artifact, output;
  std::vector<fs::path> images;
  bool json = false;
  double threshold = 0.3;
};

Options parse(int argc, char** argv) {
  Options options;
  std::vector<fs::path> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] {
      if (++i == argc) fail(word, " wants a value\n", kUsage);
      return std::string(argv[i]);
    };
    if (word == "--help") {
      std::cout << kUsage;
      std::exit(0);
    } else if (word == "--json") {
      options.json = true;
    } else if (word == "--output") {
      options.output = next();
    } else if (word == "--threshold") {
      options.threshold = number(word, next(), 0.0, 1.0);
    } else if (word == "--threads") {
      at::set_num_threads(number(word, next(), 1, kMostThreads));
    } else if (word.rfind("--", 0) == 0) {
      fail("unknown option ", word, "\n", kUsage);
    } else if (std::find(words.begin(), words.end(), word) == words.end()) {  // none twice
      words.emplace_back(word);
    }
  }
  if (words.empty()) fail("no artifact is named\n", kUsage);
  options.artifact = words[0];
  options.images.assign(words.begin() + 1, words.end());
  return options;
}

int check(const Artifact& artifact) {
  const double difference = artifact.difference(), tolerance = artifact.manifest()["tolerance"].number;
  std::printf("sample: differs from the model by %.1e of its largest output, at most %.1e is fine\n", difference,
              tolerance);
  return difference > tolerance;
}

#ifdef WITH_OPENCV
int run(const Artifact& artifact, const Options& options) {
  if (!artifact.task().has("view")) {
    fail(options.artifact.string(), ": doesn't say how a picture becomes its input; `internimage export` writes ",
         "artifacts that do");
  }
  int failed = 0;
  Joined contents;
  std::vector<fs::path> targets;
  if (!options.output.empty()) {
    targets = prediction_paths(options.images, options.output);
    fs::create_directories(options.output);
  }
  for (size_t i = 0; i < options.images.size(); ++i) {
    const fs::path& path = options.images[i];
    cv::Mat picture;
    try {
      picture = read_picture(path);
    } catch (const UserError& error) {
      std::cerr << "internimage_run: " << error.what() << "\n";
      ++failed;
      continue;
    }
    const Tensors inputs = picture_inputs(picture, artifact.task());
    Tensors moved;
    for (const at::Tensor& input : inputs) moved.push_back(input.to(artifact.device()));
    const Tensors outputs = artifact(moved);
    const Reading reading = read_outputs(artifact, outputs, inputs, picture.rows, picture.cols, options.threshold);
    contents.add("{\"file\": " + quoted(path.string()) + ", " + reading.json + "}");
    if (!options.json) {
      std::cout << path.string() << "\n";
      for (const std::string& row : reading.rows) std::cout << row << "\n";
      std::cout.flush();
    }
    if (!targets.empty() && reading.labels.defined()) write_grey(targets[i], reading.labels);
  }
  if (options.json) std::cout << contents.list() << "\n";
  return failed > 0;
}
#else
int run(const Artifact&, const Options&) {
  fail("this program was built without OpenCV and reads no pictures; install libopencv-dev and build it again");
}
#endif

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    const Artifact artifact(options.artifact);
    return options.images.empty() ? check(artifact) : run(artifact, options);
  } catch (const std::exception& error) {
    std::cerr << "internimage_run: error: " << error.what() << "\n";
    return 1;
  }
}
