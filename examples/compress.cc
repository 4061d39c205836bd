// Prunes half of a model's tiles by their effect on a text: compress MODEL OUT TEXTS
#include <tessera/compress.h>

#include <iostream>

int fail(const tessera::Status& status) { return std::cerr << status.message() << "\n", 1; }

int main(int argc, char** argv) {
  if (argc != 4) return fail(tessera::invalid_input("usage: compress MODEL OUT TEXTS"));
  tessera::CompressOptions options;
  options.prune = {.share = 0.5,
                   .score = tessera::PruneScore::kCalibrated,
                   .repair = tessera::PruneOptions::Repair::kLeastSquares};
  options.calibration = {.text_file = argv[3]};
  options.measure = tessera::CompressOptions::Measure::kModel;
  const auto report = tessera::compress(argv[1], argv[2], options);
  if (!report.ok()) return fail(report.status());
  std::cout << report->bytes_before << " bytes became " << report->bytes_after << "\n";
  if (!report->speed_before || !report->speed_after) return 0;
  std::cout << report->speed_before->pass_seconds << " s became "
            << report->speed_after->pass_seconds << "\n";
}
