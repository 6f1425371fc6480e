"""The grammar of the command line: what can be said, and the help that teaches it."""

import argparse
from importlib.metadata import version
from pathlib import Path

from npvae import noise
from npvae.likelihoods import LIKELIHOODS
from npvae.mlp import ACTIVATIONS
from npvae.models import BOUNDS, KINDS
from npvae.ops import BACKENDS, default_backend
from npvae.runs import FIGURES, Settings

DESCRIPTION = """\
Train, continue, sample and measure variational autoencoders whose every gradient is written by hand.

  npvae train --out runs/first              train the default VAE on 10,000 digits, draw what it learned
  npvae sample runs/first                   new digits from the prior
  npvae evaluate runs/first --samples 5000  the bound, and a tighter estimate of -log p(x)
  npvae COMMAND --help                      every option of a command"""

TRAIN = """\
Train a model on images and keep it in a folder with its settings, metrics and pictures.

  npvae train                                             784-400-20 VAE, Bernoulli, 40 epochs, into runs/1
  npvae train --latent 2 --out runs/plane                 two latents: the pictures show the whole manifold
  npvae train --bound iwae --samples 5 --hidden 200,200   importance-weighted bound
  npvae train --likelihood gaussian-learned --warmup 10   grey pixels, one learned sigma, KL weight grown slowly
  npvae train --model ae --corruption masking             denoising autoencoder
  npvae train --data photos/ --likelihood gaussian-optimal   your own folder of PNGs

Ctrl-C finishes the step, writes the checkpoint and says how to go on."""

RESUME = """\
Go on from a run's last checkpoint to its last epoch. The result is that of a run never interrupted, bit for bit.

  npvae resume runs/1"""
SAMPLE = """\
Draw codes z ~ N(0, 1) and decode them: images that nobody drew. Needs a VAE: an autoencoder has no prior.

  npvae sample runs/1                                  64 images into runs/1/samples.png
  npvae sample runs/1 -n 1000 --seed 7 --out new.npy   1,000 others as an array (n, D)"""
RECONSTRUCT = """\
Encode and decode test images: originals above reconstructions, what a denoising model saw between them.

  npvae reconstruct runs/1                          10 test images into runs/1/reconstructions.png
  npvae reconstruct runs/1 -n 500 --out again.npy   500 reconstructions as an array (n, D)"""
EVALUATE = """\
Measure a run on its test images: minus the bound at beta 1, its two terms, and the importance-weighted estimate of
-log p(x) (Burda et al. 2016), with its standard error across images and, by the delta method, per image. Pixels are
binarised as in training; all noise comes from the run's seed, so the figures repeat.

  npvae evaluate runs/1 --samples 5000 --images 100   a tight estimate on the first 100 test images
  npvae evaluate runs/1 --json                        the figures as one JSON object"""
PLOT = """\
Draw: loss curves, originals and reconstructions, samples, interpolation, traversals, codes, KL per latent, and the
manifold when there are two latents.

  npvae plot runs/1 --out pictures"""
WARMUP = """\
Compile now what the first training step would have to wait for. What is compiled is kept in Numba's cache, beside the
package or where NUMBA_CACHE_DIR says, and made anew when npvae or Numba changes.

  npvae warmup               all kernels for float32, in half a minute or so
  npvae warmup --dtype all   for float64 too"""
GRADCHECK = """\
Check gradients against the loss that they belong to: by the complex step, by central differences and by Richardson's
extrapolation, with a verdict for every parameter array and, where it is wrong, what explains it.

  npvae gradcheck                                       every op and every model of npvae, on both backends
  npvae gradcheck my_vae.py:Check                       your own code
  npvae gradcheck my_vae.py:Check --json                the report as one JSON object
  npvae gradcheck my_vae.py:Check --heatmap W1 --out w1.png   where W1's gradient is wrong
  npvae gradcheck --zoo                                 63 mistakes in a plain VAE: what finds each, and what it says
  npvae gradcheck --exercise 7                          a file with one of them: find it (--solution)

What you name is a class, an object, a function that returns one, or, if you name none, the module, and has three
functions:

  class Check:
      def params(self):             # the parameters by name, in the order of the forward pass
          return {"W": np.ones((3, 2)), "b": np.zeros(2)}
      def loss(self, params):       # a number, the same one every time: draw noise once, from a seed
          return float(((X @ params["W"] + params["b"]) ** 2).sum())
      def gradients(self, params):  # the derivatives by each of them
          dy = 2 * (X @ params["W"] + params["b"])
          return {"W": X.T @ dy, "b": dy.sum(0)}

It may have two more things: terms(params), what the loss is the sum of as numbers by name, and sizes, a dict of what
factors may be called, such as {"B": 16}. A loss that takes complex arrays too is checked to more digits.

The exit code is 0 if every gradient is right, 1 if one is wrong or undecided, 2 if the check could not be made."""
LESSON = """\
The lecture on autoencoders and variational autoencoders, executable: each lesson states a claim, measures it on digits
that are inside the package, draws it, and says whether it holds. Its derivation and its code are in npvae/lessons/.

  npvae lesson                       the lessons in the lecture's order
  npvae lesson pca                   one: its numbers, and lessons/pca.png and pca.json
  npvae lesson all --out lecture     all of them, and lecture/index.html with derivations, code, numbers and pictures
  npvae lesson all --quick           the same claims on smaller models and fewer images

The exit code is 0 if every claim holds, 1 if one does not."""
EXPLAIN = """\
One pass of a model, op by op, recorded while it runs: forward down, backward up, with the formula of each op, what it
reads and writes, FLOPs, parameters, the norm of every array and of the loss's derivative by it, and the line of source.

  npvae explain                               the default VAE, as it is initialised, on 64 digits
  npvae explain runs/1                        a trained one, on its own test images
  npvae explain --hidden 200,200 --bound iwae --samples 5
  npvae explain --out pass.png                the picture: arrays as boxes, ops as arrows as wide as the root of FLOPs
  npvae explain --out pass.html               the table as a page"""
INFO = """\
Show what npvae runs on.

  npvae info --json   the same as one JSON object"""


def parser() -> argparse.ArgumentParser:
    """The whole grammar; the parsed `command` is the name of one."""
    top = argparse.ArgumentParser(
        "npvae", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"npvae {version('npvae')}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def command(name: str, brief: str, text: str) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(name, help=brief, description=text, formatter_class=form)

    add_train_options(command("train", "train a model and keep it in a folder", TRAIN))

    going_on = command("resume", "go on with an interrupted run", RESUME)
    going_on.add_argument("run", metavar="DIR", help="the run's folder")
    going_on.add_argument("--data", metavar="NAME|PATH", help="where the run's images are now, if they have moved")
    going_on.add_argument("--json", action="store_true", help="print one JSON object with the final figures")

    sampling = command("sample", "new images from the prior", SAMPLE)
    sampling.add_argument("run", metavar="DIR", help="the run's folder")
    sampling.add_argument("-n", type=int, default=64, help="how many (64)")
    sampling.add_argument("--seed", type=int, help="of the codes (the run's)")
    sampling.add_argument("--out", metavar="FILE", help=".png or .npy (DIR/samples.png)")

    again = command("reconstruct", "test images through the model", RECONSTRUCT)
    again.add_argument("run", metavar="DIR", help="the run's folder")
    again.add_argument("-n", type=int, help="how many test images (10, or as many as there are)")
    again.add_argument("--data", metavar="NAME|PATH", help="other images than the run's")
    again.add_argument("--out", metavar="FILE", help=".png or .npy (DIR/reconstructions.png)")

    measuring = command("evaluate", "the bound and an estimate of -log p(x)", EVALUATE)
    measuring.add_argument("run", metavar="DIR", help="the run's folder")
    measuring.add_argument("--samples", type=int, metavar="K", help="importance samples per image (500)")
    measuring.add_argument("--images", type=int, metavar="N", help="only the first N test images (all)")
    measuring.add_argument("--data", metavar="NAME|PATH", help="other images than the run's")
    measuring.add_argument("--json", action="store_true", help="print one JSON object with the figures")

    drawing = command("plot", "draw a run's pictures again", PLOT)
    drawing.add_argument("run", metavar="DIR", help="the run's folder")
    drawing.add_argument("--data", metavar="NAME|PATH", help="where the run's images are now, if they have moved")
    drawing.add_argument("--out", metavar="DIR", type=Path, help=f"where to (the run's {FIGURES}/)")

    proving = command("gradcheck", "prove every gradient, npvae's or yours", GRADCHECK)
    proving.add_argument("target", nargs="?", metavar="FILE.py[:NAME]", help="your code (npvae's own)")
    proving.add_argument("--json", action="store_true", help="print one JSON object")
    proving.add_argument("--heatmap", metavar="TENSOR", help="draw the error of one of your parameter arrays")
    proving.add_argument("--out", metavar="FILE", help="the heat map's .png (TENSOR.png)")
    proving.add_argument("--zoo", action="store_true", help="put mistakes into a plain VAE and report what finds them")
    proving.add_argument("--exercise", type=int, metavar="N", help="print a plain VAE with mistake N, to be found")
    proving.add_argument("--solution", action="store_true", help="of --exercise N: what is wrong, and what finds it")

    teaching = command("lesson", "run a claim of the lecture, measure it, draw it", LESSON)
    teaching.add_argument("name", nargs="?", metavar="NAME", help="a lesson, or all (list them)")
    teaching.add_argument("--quick", action="store_true", help="smaller models and fewer images: seconds, not a minute")
    teaching.add_argument("--out", default="lessons", metavar="DIR", help="folder for figures and numbers (lessons)")
    teaching.add_argument("--json", action="store_true", help="print one JSON object")

    explaining = command("explain", "a pass, op by op", EXPLAIN)
    explaining.add_argument("run", nargs="?", metavar="DIR", help="a run's folder (a new model)")
    add_model_options(explaining)
    explaining.add_argument("--samples", type=int, metavar="K", help="codes drawn per image (1, or the run's)")
    explaining.add_argument("--batch", type=int, metavar="N", help="the first N test images (64, or all)")
    explaining.add_argument("--data", metavar="NAME|PATH", help="other images than the run's, or than mnist-small")
    explaining.add_argument("--rescale", action="store_true", help="map the pixels' range to [0, 1]")
    explaining.add_argument("--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} ({default_backend()})")
    explaining.add_argument("--out", metavar="FILE", help=".png or .html (print the table)")
    explaining.add_argument("--json", action="store_true", help="print one JSON object")

    warming = command("warmup", "compile everything now", WARMUP)
    warming.add_argument("--dtype", default="float32", metavar="NAME", help="float32, float64, all (float32)")

    telling = command("info", "versions, threads, vector width, folders", INFO)
    telling.add_argument("--json", action="store_true", help="print one JSON object")
    return top


def add_train_options(train: argparse.ArgumentParser) -> None:
    """The options of `npvae train`; one left out is absent, so that each default stands in one place."""
    defaults = Settings()
    absent = argparse.SUPPRESS

    data = train.add_argument_group("data")
    data.add_argument(
        "--data", default="mnist-small", metavar="NAME|PATH",
        help="mnist-small (10,000 digits inside the package), mnist, fashion-mnist (downloaded if need be), "
        "or a path: .npy, .npz, IDX, a folder of PNGs (mnist-small)",
    )  # fmt: skip
    data.add_argument("--rows", type=int, metavar="N", help="train on the first N images (all)")
    data.add_argument("--rescale", action="store_true", help="map the pixels' range to [0, 1]")
    data.add_argument(
        "--binarize", default=absent, choices=noise.BINARIZATIONS,
        help="black and white pixels: redrawn every pass, once, or left grey (dynamic under bernoulli, else none)",
    )  # fmt: skip
    data.add_argument("--corruption", default=absent, metavar="KIND",
                      help=f"denoise: {', '.join(noise.CORRUPTIONS)}; the target stays clean (none)")  # fmt: skip
    data.add_argument("--corruption-level", default=absent, type=float, metavar="X",
                      help="share of pixels hit, or the Gaussian's sigma (0.3)")  # fmt: skip

    add_model_options(train)

    objective = train.add_argument_group("objective")
    objective.add_argument("--samples", default=absent, type=int, metavar="K", help="codes drawn per image (1)")
    objective.add_argument("--beta", default=absent, type=float, metavar="X", help="weight of the KL (1)")
    objective.add_argument("--warmup", default=absent, type=int, metavar="EPOCHS",
                           help="epochs over which beta grows from 0 (0)")  # fmt: skip

    steps = train.add_argument_group("optimisation")
    steps.add_argument("--epochs", default=absent, type=int, metavar="N", help=f"passes ({defaults.epochs})")
    steps.add_argument("--batch", default=absent, type=int, metavar="N", help=f"images per step ({defaults.batch})")
    steps.add_argument("--lr", default=absent, type=float, metavar="X", help=f"learning rate ({defaults.lr})")
    steps.add_argument("--optimizer", default=absent, metavar="NAME", help="adam, adamw, rmsprop, sgd (adam)")
    steps.add_argument("--momentum", default=absent, type=float, metavar="X", help="of sgd (0.9)")
    steps.add_argument("--weight-decay", default=absent, type=float, metavar="X", help="of adamw (0.01)")
    steps.add_argument("--schedule", default=absent, metavar="NAME",
                       help="constant; step: a tenth after each third; cosine: down to 0 (constant)")  # fmt: skip
    steps.add_argument("--lr-warmup", default=absent, type=int, metavar="STEPS",
                       help="steps over which the rate grows to its value (0)")  # fmt: skip
    steps.add_argument("--clip", default=absent, type=float, metavar="X", help="largest gradient norm (none)")
    steps.add_argument("--patience", default=absent, type=int, metavar="N",
                       help="stop after N epochs without a better test loss, keep the best (never)")  # fmt: skip

    run = train.add_argument_group("run")
    run.add_argument("--seed", default=absent, type=int, metavar="N", help="of everything random (0)")
    run.add_argument("--backend", default=absent, metavar="NAME", help=f"{', '.join(BACKENDS)} ({default_backend()})")
    run.add_argument("--dtype", default=absent, metavar="NAME", help="float32, float64 (float32)")
    run.add_argument("--out", metavar="DIR", help="folder for the run (runs/1, runs/2, ...)")
    run.add_argument("--json", action="store_true", help="print one JSON object with the final figures")


def add_model_options(command: argparse.ArgumentParser) -> None:
    """What a model is: the options of `npvae.models.make_model`."""
    model = command.add_argument_group("model")
    model.add_argument("--model", default="vae", metavar="KIND", help=f"{', '.join(KINDS)} (vae)")
    model.add_argument("--hidden", type=widths, metavar="W,W", help="widths of the encoder's hidden layers (400)")
    model.add_argument("--latent", type=int, metavar="Z", help="latents (20)")
    model.add_argument("--activation", metavar="NAME", help=f"{', '.join(ACTIVATIONS)} (relu)")
    model.add_argument("--likelihood", metavar="NAME", help=f"{', '.join(LIKELIHOODS)} (bernoulli)")
    model.add_argument("--sigma", type=float, metavar="X", help="of the likelihood gaussian (1)")
    model.add_argument("--bound", metavar="NAME", help=f"{', '.join(BOUNDS)} (elbo)")
    model.add_argument("--free-bits", type=float, metavar="X", help="nats per latent that cost nothing (0)")


def widths(text: str) -> tuple[int, ...]:
    """'400,200' -> (400, 200), '' -> ()."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 400,200, got {text!r}") from None
