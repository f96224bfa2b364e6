"""As much of `kustomize build` as the kustomizations of this project use.

There is no package with the program itself for this Python, so this stands in for it: resources,
namespace, nameSuffix, labels with selectors, images, and JSON patches by kind and name. Anything
else in a kustomization is an error.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {
    *("apiVersion", "kind", "resources", "namespace", "nameSuffix", "labels", "images", "patches"),
}
_CLUSTER_WIDE = {"Namespace"}
# Where a manifest names another: the member, the member in it that holds the name, and the kind.
_REFERENCES = {
    ("configMapRef", "name"): "ConfigMap",
    ("configMapKeyRef", "name"): "ConfigMap",
    ("configMap", "name"): "ConfigMap",
    ("persistentVolumeClaim", "claimName"): "PersistentVolumeClaim",
}


def build(folder: Path) -> list[Manifest]:
    """Return the manifests that a kustomization makes."""
    (settings,) = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
    unknown = settings.keys() - _KNOWN
    assert not unknown, f"{folder}: this stand-in knows no {sorted(unknown)}"
    found: list[Manifest] = []
    for resource in settings["resources"]:
        path = (folder / resource).resolve()
        found += build(path) if path.is_dir() else _read(path)
    for patch in settings.get("patches", []):
        _patch(found, patch, folder)
    _rename(found, settings.get("nameSuffix", ""))
    for entry in settings.get("labels", []):
        assert entry["includeSelectors"] is True
        for manifest in found:
            _label(manifest, entry["pairs"])
    for image in settings.get("images", []):
        _set_image(found, image)
    if namespace := settings.get("namespace"):
        for manifest in found:
            if manifest["kind"] not in _CLUSTER_WIDE:
                manifest["metadata"]["namespace"] = namespace
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in found]
    assert len(set(names)) == len(names), f"{folder}: {names} are not all different"
    return found


def containers(manifest: Manifest) -> list[Manifest]:
    """Return the containers of a workload, those that run first among them."""
    spec = manifest.get("spec", {}).get("template", {}).get("spec", {})
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def members(value: Any) -> list[tuple[str, Any]]:
    """Return every member of every object inside a manifest."""
    if isinstance(value, dict):
        return [*value.items(), *(m for child in value.values() for m in members(child))]
    if isinstance(value, list):
        return [m for child in value for m in members(child)]
    return []


def _read(path: Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(path.read_text()) if manifest]


def _patch(found: list[Manifest], patch: Manifest, folder: Path) -> None:
    target = patch["target"]
    chosen = [
        manifest
        for manifest in found
        if (manifest["kind"], manifest["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    assert chosen, f"{folder}: a patch has no target"
    for operation in yaml.safe_load(patch["patch"]):
        assert operation["op"] == "replace"
        *parents, last = operation["path"].strip("/").split("/")
        for manifest in chosen:
            place: Any = manifest
            for step in parents:
                place = place[int(step) if isinstance(place, list) else step]
            assert last in place, f"{folder}: {operation['path']} does not exist"
            place[last] = copy.deepcopy(operation["value"])


def _rename(found: list[Manifest], suffix: str) -> None:
    known = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in found}
    for manifest in found:
        manifest["metadata"]["name"] += suffix
        for key, value in members(manifest):
            for (member, holder), kind in _REFERENCES.items():
                if key == member and (kind, value.get(holder)) in known:
                    value[holder] += suffix
        spec = manifest.get("spec", {})
        if ("Service", spec.get("serviceName")) in known:
            spec["serviceName"] += suffix


def _label(manifest: Manifest, pairs: dict[str, str]) -> None:
    manifest["metadata"].setdefault("labels", {}).update(pairs)
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        spec["selector"].update(pairs)
    if manifest["kind"] == "StatefulSet":
        spec["selector"]["matchLabels"].update(pairs)
        spec["template"]["metadata"]["labels"].update(pairs)
    if manifest["kind"] == "NetworkPolicy":
        spec["podSelector"]["matchLabels"].update(pairs)


def _set_image(found: list[Manifest], image: Manifest) -> None:
    for manifest in found:
        for container in containers(manifest):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
