"""The changes that ``tests/mutation.py`` makes, one operator, number or condition at a time, and
the tests of each module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import CodeType
from typing import Any

# what tests a module, below tests/; the fastest first
MODULES = {
    "diffusion/schedules": "diffusion/test_schedules.py",
    "diffusion/solvers": "diffusion/test_solvers.py",
    "diffusion/guidance": "diffusion/test_guidance.py",
    "diffusion/settings": "diffusion/test_sampler.py",
    "selection/calibration": "selection/test_calibration.py",
    "selection/copies": "selection/test_copies.py",
    "selection/selector": "selection/test_calibration.py selection/test_centroid_selector.py "
    "selection/test_critic.py",
    "selection/quotas": "selection/test_quotas.py selection/test_candidates.py "
    "selection/test_calibration.py",
    "data/bank": "data/test_bank.py",
    "data/bank_files": "data/test_sealed.py data/test_bank.py",
    "data/sealed": "data/test_sealed.py data/test_bank.py",
    "data/draws": "data/test_patch_set.py bundle/test_task.py",
    "data/manifests": "data/test_listing.py data/test_names_and_levels.py",
    "data/shortcuts": "data/test_shortcuts.py",
    "data/strict_table": "data/test_sealed.py",
    "options/typed": "bundle/test_typed.py",
    "selection/candidates": "data/test_bank.py data/test_sealed.py",
    "augmentation/labels": "augmentation/test_labels.py augmentation/test_transforms.py",
    "augmentation/patches": "augmentation/test_patches.py augmentation/test_items.py",
    "augmentation/items": "augmentation/test_items.py",
    "augmentation/transforms": "augmentation/test_transforms.py augmentation/test_patches.py "
    "augmentation/test_items.py augmentation/test_labels.py",
    "augmentation/dictionary": "augmentation/test_transforms.py augmentation/test_patches.py "
    "augmentation/test_items.py augmentation/test_labels.py",
    "augmentation/filling": "augmentation/test_live_bank.py",
    "augmentation/buffers": "augmentation/test_live_bank.py",
    "evaluation/metrics": "evaluation/test_metrics.py",
    "evaluation/statistics": "evaluation/test_statistics.py",
    "evaluation/feature_metrics": "evaluation/test_feature_metrics.py",
    "evaluation/experiment": "evaluation/test_crops.py evaluation/test_experiment.py",
    "utils/cache": "utils/test_cache.py",
    "utils/files": "utils/test_files.py",
    "utils/fingerprint": "utils/test_fingerprint.py",
    "diffusion/autoencoder": "diffusion/test_model.py",
    "diffusion/model": "diffusion/test_model.py diffusion/test_foreign_generators.py",
    "diffusion/unet": "diffusion/test_unet.py diffusion/test_model.py diffusion/test_exemplar.py",
    "diffusion/batches": "diffusion/test_sampler.py",
    "diffusion/exemplar": "diffusion/test_exemplar.py",
    "diffusion/foreign": "diffusion/test_foreign_generators.py",
    "diffusion/generative": "diffusion/test_generative.py",
    "diffusion/guide": "diffusion/test_guide.py diffusion/test_guide_file.py "
    "diffusion/test_model.py",
    "diffusion/latents": "diffusion/test_latents.py diffusion/test_sampler.py "
    "diffusion/test_exemplar.py training/test_steps.py",
    "diffusion/sampler": "diffusion/test_sampler.py",
    "diffusion/sharing": "diffusion/test_unet.py diffusion/test_sampler.py "
    "diffusion/test_foreign_generators.py",
    "diffusion/sources": "diffusion/test_sampler.py diffusion/test_latents.py "
    "diffusion/test_exemplar.py",
    "diffusion/wanted": "diffusion/test_sampler.py",
    "selection/folds": "selection/test_critic.py",
    "selection/critic": "selection/test_critic.py selection/test_shared_encoder.py",
    "selection/copy_check": "selection/test_copy_check.py",
    "selection/foreign": "selection/test_foreign.py",
    "selection/sourcing": "selection/test_sourcing.py selection/test_pseudo_labels.py",
    "augmentation/live_bank": "augmentation/test_live_bank.py",
    "augmentation/refresher": "augmentation/test_live_bank.py",
    "evaluation/answers": "evaluation/test_verdict.py",
    "evaluation/arms": "evaluation/test_arms.py evaluation/test_experiment.py",
    "evaluation/baselines": "classifiers/test_encoder.py evaluation/test_arms.py "
    "evaluation/test_experiment.py",
    "evaluation/clusters": "evaluation/test_statistics.py evaluation/test_power.py",
    "evaluation/comparisons": "evaluation/test_arms.py",
    "evaluation/combining": "commands/test_summary.py",
    "evaluation/methods": "commands/test_methods.py",
    "evaluation/results_files": "commands/test_summary.py commands/test_methods.py",
    "evaluation/results_kinds": "commands/test_summary.py commands/test_methods.py",
    "evaluation/exemplars": "evaluation/test_two_sample.py",
    "evaluation/generator": "evaluation/test_generator.py",
    "evaluation/generator_sizes": "evaluation/test_generator_sizes.py",
    "evaluation/power": "evaluation/test_power.py",
    "evaluation/real_banks": "evaluation/test_arms.py",
    "evaluation/student": "evaluation/test_student.py",
    "evaluation/synthetic": "evaluation/test_fidelity.py evaluation/test_agreement.py",
    "evaluation/two_sample": "evaluation/test_two_sample.py",
    "evaluation/verdict": "evaluation/test_verdict.py",
    "evaluation/worlds": "evaluation/test_power.py",
}


def tests_of(module: str) -> list[str]:
    """The files of tests of a module, and that of the defaults of all."""
    return [*MODULES[module].split(), "test_signatures.py"]


SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "argmin": "argmax",
    "any": "all",
    "all": "any",
}
SAFE = ("strict", "non_blocking")  # arguments that change no result
OPTIMIZED = 1  # flag of a function's code, which a class body lacks


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Fields of a node, and what they become, one at a time."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "op", ast.UAdd()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", node.value + 1
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "attr", NAMES[node.attr]
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "value", ast.Constant(None)


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run: no annotation, and nothing within an error or a text for the reader."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            hidden = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom
            if name in ("annotation", "returns") or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.keyword) and child.arg in SAFE:
                continue
            if not isinstance(child, hidden):
                yield child
                yield from sites(child)


class Source:
    """A module's text, and every change of it.

    Args:
        text: Python.
        path: of the file, for tracebacks.
    """

    def __init__(self, text: str, path: str) -> None:
        self.tree, self.path = ast.parse(text), path
        self.changes = [(n, field, value) for n in sites(self.tree) for field, value in changes(n)]

    def mutant(self, index: int) -> tuple[int, str, CodeType]:
        """Line, what is changed, and the code of the changed module."""
        node, field, value = self.changes[index]
        before, old = ast.unparse(node), getattr(node, field)
        setattr(node, field, value)
        told = f"{before.splitlines()[0][:70]}  ->  {ast.unparse(node).splitlines()[0][:70]}"
        code = self.code()
        setattr(node, field, old)
        return getattr(node, "lineno", 0), told, code

    def code(self) -> CodeType:
        """Of the module as it stands."""
        tree = ast.fix_missing_locations(self.tree)
        return compile(tree, self.path, "exec", dont_inherit=True)  # nor this file's __future__


def functions(code: CodeType) -> dict[int, CodeType]:
    """First line -> code of each function of a module or class body, not of functions within."""
    found: dict[int, CodeType] = {}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            inside = {part.co_firstlineno: part} if part.co_flags & OPTIMIZED else functions(part)
            found.update(inside)
    return found


def skeleton(code: CodeType) -> CodeType:
    """The body of a module without its functions: equal if only these differ."""
    parts = (
        p if not isinstance(p, CodeType) else "f" if p.co_flags & OPTIMIZED else skeleton(p)
        for p in code.co_consts
    )
    return code.replace(co_consts=tuple(parts))
