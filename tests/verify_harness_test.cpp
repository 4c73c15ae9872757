#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "util/error.hpp"
#include "verify/harness.hpp"

namespace tconv::verify {
namespace {

std::string refusal_with(const char* python) {
  ::setenv("TCONV_PYTHON", python, 1);
  Harness harness("answer.py", Device::interpreter, std::chrono::seconds(5));
  try {
    harness.start();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::no_device);
    return error.what();
  }
  return {};
}

TEST(Harness, SaysWhatToInstall) {
  for (const char* python : {"/bin/false", "/nonexistent/python"}) {
    const std::string what = refusal_with(python);
    EXPECT_NE(what.find("pip install torch"), std::string::npos) << what;
    EXPECT_NE(what.find(python), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }
}

// Something else that answers is refused, not trusted.
TEST(Harness, RefusesAProgramThatIsNoPython) { EXPECT_FALSE(refusal_with("/bin/echo").empty()); }

}  // namespace
}  // namespace tconv::verify
