// A stage's rules against the evidence: kept because they bind, without object here, or contradicted by a number.
#pragma once

#include <vector>

#include "request/diagnose.hpp"
#include "request/evidence.hpp"

namespace tconv::request {

// One verdict per rule, in the request's order, then one per metric of the stage that has a target.
// A rule "change X only if Y" is applied where Y holds, not needed where neither Y nor anything else asks for
// the change, and in conflict where Y does not hold and the kernel cannot reach the limit without the change.
[[nodiscard]] std::vector<RuleVerdict> judge_rules(const Evidence& evidence);

}  // namespace tconv::request
