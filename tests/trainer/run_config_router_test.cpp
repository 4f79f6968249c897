// The section `router` of a job file.
#include <catch2/catch.hpp>

#include "job_workspace.hpp"
#include "trainer/checkpoint/resume.hpp"

using namespace tailor::trainer;

namespace {

std::string with_router(const std::string& text) { return kSmall + "router: {" + text + "}\n"; }

}  // namespace

TEST_CASE("routers are frozen, and nothing is added to the loss, unless the job says so") {
  const Workspace workspace;
  const auto config = workspace.read(kSmall);
  CHECK_FALSE((config.router.train_router || config.peft->train_router));
  CHECK(config.router.router_aux_loss_coef == 0.0);
  const auto trained = workspace.read(with_router("train_router: true"));
  CHECK((trained.router.train_router && trained.peft->train_router));
  CHECK(trained.router.router_aux_loss_coef == 1e-3);
  CHECK(trained.router.router_aux_loss_scope == BalanceScope::GlobalBatch);
  CHECK(trained.router.router_seq_aux_loss_coef == 0.0);
  CHECK(trained.router.router_z_loss_coef == 0.0);
  CHECK(trained.router.router_bias_update_rate == 0.0);
  CHECK(workspace.read(with_router("train_router: false, router_aux_loss_coef: 0"))
            .router.router_aux_loss_coef == 0.0);
}

TEST_CASE("every key of the router is read, written and compared") {
  const Workspace workspace;
  const auto config = workspace.read(
      with_router("train_router: true, router_aux_loss_coef: 0.02, router_aux_loss_scope: "
                  "micro_batch, router_seq_aux_loss_coef: 1e-4, router_z_loss_coef: 1e-3, "
                  "router_bias_update_rate: 0.001, expert_capacity_factor: 1.25, "
                  "token_drop_policy: position"));
  const auto again = workspace.read(to_yaml(config)).router;
  CHECK(again.train_router);
  CHECK(again.router_aux_loss_coef == 0.02);
  CHECK(again.router_aux_loss_scope == BalanceScope::MicroBatch);
  CHECK(again.router_seq_aux_loss_coef == 1e-4);
  CHECK(again.router_z_loss_coef == 1e-3);
  CHECK(again.router_bias_update_rate == 1e-3);
  CHECK(again.capacity.factor == 1.25);
  CHECK(again.capacity.drop == tailor::models::ExpertCapacity::Drop::Position);

  const auto plain = workspace.read(with_router("train_router: true"));
  CHECK(compare_configs(config, plain).refused.size() == 7);
  CHECK(compare_configs(plain, workspace.read(kSmall)).refused ==
        std::vector<std::string>{"router.train_router: begun with true, now false",
                                 "router.router_aux_loss_coef: begun with 0.001, now 0"});
}

TEST_CASE("experts of frozen routers may have a capacity, and have none unless the job says so") {
  const Workspace workspace;
  CHECK(workspace.read(kSmall).router.capacity.factor == 0.0);
  const auto config = workspace.read(with_router("expert_capacity_factor: 1.5"));
  const auto again = workspace.read(to_yaml(config)).router;
  CHECK_FALSE(again.train_router);
  CHECK(again.capacity.factor == 1.5);
  CHECK(again.capacity.drop == tailor::models::ExpertCapacity::Drop::Probs);
}

TEST_CASE("what means nothing for routers is told with its place") {
  const Workspace workspace;
  const auto error = [&](const std::string& text) { return workspace.errors(with_router(text)); };
  CHECK(error("router_z_loss_coef: 0.1") ==
        "job.yaml:4:30: router.router_z_loss_coef: needs train_router: true: a frozen router is "
        "not balanced");
  CHECK(error("train_router: true, router_z_loss_coef: -0.1").find("expected") !=
        std::string::npos);
  CHECK(error("output_router_logits: true").find("router_aux_loss_coef") != std::string::npos);
  CHECK(error("train_router: true, moe_z_loss_coeff: 1").find("router_z_loss_coef") !=
        std::string::npos);
  CHECK(error("train_router: true, router_aux_loss_scope: batch")
            .find("expected one of global_batch, micro_batch") != std::string::npos);
  CHECK(workspace.errors(kSmall + "router_aux_loss_coef: 0.1\n")
            .find("router.router_aux_loss_coef") != std::string::npos);
  CHECK(workspace
            .errors(kSmall + "task: grpo\nrewards: [{name: regex, pattern: a}]\n"
                             "router: {train_router: true}\n")
            .find("expected false under task: grpo") != std::string::npos);
  CHECK(error("token_drop_policy: probs").find("needs expert_capacity_factor") !=
        std::string::npos);
  CHECK(error("expert_capacity_factor: -1").find("expected") != std::string::npos);
  CHECK(error("moe_expert_capacity_factor: 1").find("expert_capacity_factor") != std::string::npos);
  CHECK(workspace
            .errors(kSmall + "task: grpo\nrewards: [{name: regex, pattern: a}]\n"
                             "router: {expert_capacity_factor: 1}\n")
            .find("expected 0 under task: grpo") != std::string::npos);
}
