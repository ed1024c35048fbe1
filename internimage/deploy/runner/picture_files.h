// Picture files of a command line, as internimage.tasks.picture_files names them in Python.
#pragma once

#include <cerrno>
#include <set>

#include <opencv2/imgcodecs.hpp>

#include "artifact.h"

namespace internimage {

// Where to write what a model says of each file: its own name, numbered where two have the same.
// Throws UserError where a file lies in the folder, and could be replaced.
inline std::vector<fs::path> prediction_paths(const std::vector<fs::path>& paths, const fs::path& folder) {
  std::vector<fs::path> targets;
  std::set<std::string> used;
  for (const fs::path& path : paths) {
    if (fs::weakly_canonical(fs::absolute(path).parent_path()) == fs::weakly_canonical(fs::absolute(folder))) {
      fail(path.string(), " lies in the folder for results, ", folder.string(), ", and could be replaced; give another one");
    }
    const std::string stem = path.stem().string();
    std::string name = stem;
    for (int number = 2; !used.insert(name).second; ++number) name = stem + "-" + std::to_string(number);
    targets.push_back(folder / (name + ".png"));
  }
  return targets;
}

// Args: path of a PNG; uint8 [H, W]. Throws UserError where the disk doesn't take it.
inline void write_grey(const fs::path& path, const at::Tensor& values) {
  const at::Tensor pixels = values.contiguous();
  const cv::Mat picture(int(pixels.size(0)), int(pixels.size(1)), CV_8U, pixels.data_ptr());
  std::vector<uint8_t> bytes;
  cv::imencode(".png", picture, bytes);  // cv::imwrite says nothing of a full disk
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) fail(path.string(), ": can't be written: ", std::strerror(errno));
}

}  // namespace internimage
