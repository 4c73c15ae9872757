#include "request/drop_in.hpp"

#include <fmt/format.h>

namespace tconv::request {

std::string module_class(const Module& module, std::string_view check) {
  std::string text = fmt::format("\n\nclass {}(nn.Module):\n    def __init__(self", module.class_name);
  for (const Parameter& parameter : module.parameters) {
    text += ", " + parameter.name;
    if (!parameter.annotation.empty()) text += ": " + parameter.annotation;
    if (!parameter.default_value.empty()) {
      text += (parameter.annotation.empty() ? "=" : " = ") + parameter.default_value;
    }
  }
  text += "):\n";
  for (const std::string& line : module.body) text += "        " + line + "\n";
  const auto role = [](const std::string& expression, const char* otherwise) {
    return expression.empty() ? std::string(otherwise) : expression;
  };
  const std::string numbers =
      fmt::format("{}, {}, {}, {}, {}", role(module.stride, "1"), role(module.padding, "0"),
                  role(module.output_padding, "0"), role(module.dilation, "1"), role(module.groups, "1"));
  if (!check.empty()) text += fmt::format("        {}({}, {})\n", check, module.weight, numbers);
  text += fmt::format("\n    def forward(self, {}):\n", module.input);
  return text + fmt::format("        return conv_transpose1d({}, {}, {}, {})\n", module.input, module.weight,
                            role(module.bias, "None"), numbers);
}

}  // namespace tconv::request
