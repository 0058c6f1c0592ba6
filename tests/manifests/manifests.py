"""Prints the documents of YAML files as one JSON array, after validating those of Kubernetes with its schemas.

The schemas are strict: an unknown field is an error. They are part of kubernetes-validate, so nothing is downloaded.
"""

import json
import sys

import kubernetes_validate
import yaml

# The oldest version that the manifests support, and the newest with schemas.
VERSIONS = ("1.32", "1.37")

documents = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for document in yaml.safe_load_all(file):
            # Kustomize's own file is not a resource, and neither is a compose file.
            if "apiVersion" in document and "kustomize" not in document["apiVersion"]:
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)
            documents.append(document)
json.dump(documents, sys.stdout)
