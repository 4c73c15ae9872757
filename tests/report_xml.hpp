// A small reader of the markup the report writes: enough to check balance and to look at elements.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tconv::test {

struct Element {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;  // directly after the start tag, up to the next tag
};

struct Markup {
  std::vector<Element> elements;  // in document order
  std::string error;              // empty: every tag is closed in order, every attribute is quoted
};

inline Markup read_markup(std::string_view page) {
  Markup out;
  std::vector<std::string> open;
  const auto fail = [&](std::string what) {
    out.error = std::move(what);
    return out;
  };
  const auto named = [](char c) { return std::string_view(" \n\t/>=\"'<").find(c) == std::string_view::npos; };
  std::size_t i = 0;
  if (page.starts_with("<!DOCTYPE html>")) i = std::string_view("<!DOCTYPE html>").size();
  while (i < page.size()) {
    if (page[i] != '<') {
      if (page[i] == '&') {
        const std::size_t end = page.find(';', i);
        const std::string_view entity = page.substr(i, end == std::string_view::npos ? end : end - i + 1);
        if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;" && entity != "&#39;") {
          return fail("bare ampersand: " + std::string(page.substr(i, 20)));
        }
      }
      ++i;
      continue;
    }
    const bool closing = page.substr(i, 2) == "</";
    i += closing ? 2 : 1;
    std::string name;
    while (i < page.size() && named(page[i])) name += page[i++];
    if (name.empty()) return fail("tag without a name");
    Element element{name, {}, ""};
    bool self_closed = false;
    for (;;) {
      while (i < page.size() && (page[i] == ' ' || page[i] == '\n')) ++i;
      if (i >= page.size()) return fail("unfinished tag " + name);
      if (page[i] == '>') break;
      if (page.substr(i, 2) == "/>") {
        self_closed = true;
        ++i;
        break;
      }
      std::string key;
      while (i < page.size() && named(page[i])) key += page[i++];
      if (key.empty() || closing || page.substr(i, 2) != "=\"") return fail("bad attribute in " + name + ": " + key);
      i += 2;
      const std::size_t end = page.find('"', i);
      if (end == std::string_view::npos) return fail("unfinished attribute in " + name);
      const std::string_view value = page.substr(i, end - i);
      if (value.find('<') != std::string_view::npos) return fail("markup in an attribute of " + name);
      if (!element.attributes.emplace(key, value).second) return fail("attribute twice in " + name + ": " + key);
      i = end + 1;
    }
    ++i;
    if (closing) {
      if (open.empty() || open.back() != name) return fail("unexpected </" + name + ">");
      open.pop_back();
      continue;
    }
    const std::size_t end = page.find('<', i);
    element.text = std::string(page.substr(i, end == std::string_view::npos ? end : end - i));
    out.elements.push_back(std::move(element));
    if (!self_closed) open.push_back(name);
  }
  if (!open.empty()) return fail("never closed: " + open.back());
  return out;
}

inline std::size_t count(const Markup& markup, std::string_view name) {
  std::size_t n = 0;
  for (const Element& element : markup.elements) {
    if (element.name == name) ++n;
  }
  return n;
}

inline bool has_class(const Element& element, std::string_view wanted) {
  const auto found = element.attributes.find("class");
  return found != element.attributes.end() &&
         (" " + found->second + " ").find(" " + std::string(wanted) + " ") != std::string::npos;
}

}  // namespace tconv::test
