"""Prints the documents of YAML files as one JSON array; those of Kubernetes are held against its schemas first.

The schemas are strict: a field that is not in them is an error. kubernetes-validate brings them, so nothing is fetched.
"""

import json
import sys

import kubernetes_validate
import yaml

# The oldest version that the manifests are meant for, and the newest that there are schemas of.
VERSIONS = ("1.32", "1.37")

documents = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for document in yaml.safe_load_all(file):
            # Kustomize's own file is no resource, a compose file neither.
            if "apiVersion" in document and "kustomize" not in document["apiVersion"]:
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)
            documents.append(document)
json.dump(documents, sys.stdout)
