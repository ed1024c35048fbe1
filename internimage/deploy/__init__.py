"""From a model to files that run without its source: torch.export, AOTInductor, ONNX, and loading them back.

    save_artifact(Deployed(model.eval(), pixels="uint8").eval(), image, "deployed", height=(64, 512), width=(64, 512))
    (logits,) = load_artifact("deployed")(image)

`save_artifact` writes a folder with all that a program needs, in Python or in C++. `export`, `package` and
`load_package` are the steps alone: a package calls the operators by name, and `load_package` provides them.
"""

from internimage.deploy.artifact import Artifact, artifact_folder, load_artifact, save_artifact
from internimage.deploy.compiled import compile_blocks, load_compiled, save_compiled
from internimage.deploy.deployed import PIXELS, TOLERANCES, Deployed, DeployedDetector, Pixels, Precision
from internimage.deploy.inputs import Dimension, InputSpec
from internimage.deploy.manifest import Format, Manifest
from internimage.deploy.packages import FREE_SIZE_OPTIONS, Package, load_package, package
from internimage.deploy.processors import Processor
from internimage.deploy.programs import Range, export
from internimage.deploy.quantised import quantise

__all__ = [
    "FREE_SIZE_OPTIONS",
    "PIXELS",
    "TOLERANCES",
    "Artifact",
    "Deployed",
    "DeployedDetector",
    "Dimension",
    "Format",
    "InputSpec",
    "Manifest",
    "Package",
    "Pixels",
    "Precision",
    "Processor",
    "Range",
    "artifact_folder",
    "compile_blocks",
    "export",
    "load_artifact",
    "load_compiled",
    "load_package",
    "package",
    "quantise",
    "save_artifact",
    "save_compiled",
]
