"""Take from a CycloneDX list of components what is not the same everywhere: addresses, line numbers, repetitions.

Usage: cat requirements/*.txt | cyclonedx-py requirements --output-reproducible - | python requirements/clean_sbom.py
"""

import json
import sys


def main() -> None:
    """Read a list as JSON, write it again."""
    bom = json.load(sys.stdin)
    components = {component["purl"]: component for component in bom["components"]}
    bom["components"] = [
        {key: component[key] for key in ("type", "name", "version", "purl")} | {"bom-ref": purl}
        for purl, component in sorted(components.items())
    ]
    bom["dependencies"] = [{"ref": purl} for purl in sorted(components)]
    for tool in bom["metadata"]["tools"]["components"]:
        tool.pop("externalReferences", None)
    bom["metadata"]["component"] = {"type": "application", "name": "braintumor", "bom-ref": "braintumor"}
    json.dump(bom, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
