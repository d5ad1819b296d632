"""What people get wrong: one message with the key and the remedy, all problems at once, exit code 2, nothing left behind."""

import os
from pathlib import Path

import numpy as np
import pytest

from dlopt.cli import main

MINE = ("data=custom", "data._target_=mine.Blobs", "arch=mlp", "batch_size=16", "epochs=1")
LINE = ("data=custom", "data._target_=mine.Regression", "arch=mlp", "batch_size=16", "epochs=1")
FAULTY = (*MINE, "augmentation=custom", "augmentation.custom._target_=mine.FaultyAugmentation")

CASES = {
    # names
    "unknown group": (["optimzer=adam"], ["optimzer", "did you mean optimizer"]),
    "unknown option": (["optimizer=adm"], ["optimizer", "no option 'adm'", "did you mean adam"]),
    "unknown option of a list": (["regularization=[l2,dropot]"], ["regularization", "did you mean dropout"]),
    "unknown key": (["optimizer.lrr=1"], ["optimizer.lrr", "did you mean lr"]),
    "unknown key with a plus": (["+optimizer.lrr=1"], ["optimizer.lrr", "did you mean lr"]),
    "unknown setting": (["epoch=3"], ["epoch ", "did you mean epochs"]),
    "unknown nested setting": (["validation.fracton=0.1"], ["validation.fracton", "did you mean fraction"]),
    "key of an option not chosen": (["regularization.l2.strength=1"], ["regularization=l2 is not chosen"]),
    "no setting at all": (["adam"], ["adam", "GROUP=OPTION or KEY=VALUE"]),
    "unknown experiment": (["experiment=paper"], ["experiment", "mnist1d_paper"]),
    "a list that is not closed": (["arch.kernels=[1,2"], ["arch.kernels", "cannot be read"]),
    # types and ranges
    "text for a number": (["optimizer.lr=abc"], ["optimizer.lr", "a number > 0", "'abc'"]),
    "number for a whole number": (["epochs=2.5"], ["epochs", "a whole number >= 1", "2.5"]),
    "truth for a number": (["epochs=true"], ["epochs", "a whole number", "true"]),
    "out of range": (["optimizer.lr=-1"], ["optimizer.lr", "> 0", "-1"]),
    "out of range above": (["optimizer.beta1=1.0"], ["optimizer.beta1", "< 1"]),
    "zero": (["epochs=0"], ["epochs", ">= 1, got 0"]),
    "nan": (["optimizer.lr=nan"], ["optimizer.lr", "finite", "nan"]),
    "infinity": (["optimizer.lr=inf"], ["optimizer.lr", "finite", "inf"]),
    "choice": (["precision=float16"], ["precision", "float32, bfloat16, float64"]),
    "list": (["arch.kernels=3"], ["arch.kernels", "a list"]),
    "list element": (["arch=mlp", "arch.widths=[10,0]"], ["arch.widths", ">= 1"]),
    "null": (["epochs=null"], ["epochs", "null"]),
    "a value for a node": (["validation=0.1"], ["validation", "validation.fraction"]),
    "batch size": (["batch_size=half"], ["batch_size", "full", "'half'"]),
    "negative validation fraction": (["validation.fraction=-0.1"], ["validation.fraction", ">= 0 and < 1"]),
    "all held out": (["validation.fraction=1"], ["validation.fraction", ">= 0 and < 1"]),
    "name with a slash": (["name=a/b"], ["name", "'a/b'"]),
    # several
    "several options without -m": (["optimizer=sgd,adam"], ["optimizer", "add -m"]),
    "several values without -m": (["optimizer.lr=0.1,0.2"], ["optimizer.lr", "add -m"]),
    "a list for a group of one": (["optimizer=[sgd,adam]"], ["optimizer", "takes one option"]),
    "null for an option": (["optimizer=null"], ["optimizer ", "needs the name of an option; there is", "adam"]),
    "a number for an option": (["regularization=1"], ["regularization ", "needs the name of an option; there is", "l2"]),
    "a number for the option of a number": (["schedules.eps=0.5"], ["schedules.eps ", "needs the name of an option; there is", "ramp"]),
    "null for an option in a sweep": (["-m", "optimizer=adam,null"], ["optimizer ", "needs the name of an option", "in the run optimizer=null"]),
    "a schedule for no number": (["schedules=cosine"], ["schedules ", "schedules.momentum=ramp", "schedule=NAME"]),
    "a list of schedules for one number": (["schedules.eps=[ramp,cosine]"], ["1 problem", "schedules.eps ", "takes one option"]),
    "a schedule of what stops a run": (
        ["regularization=early_stopping", "schedules.early_stopping.min_delta=ramp"],
        ["1 problem", "schedules.early_stopping.min_delta ", "no step has to do with early_stopping"],
    ),
    "numbers that may have a schedule": (
        ["regularization=[early_stopping,l2,dropout]", "schedules.momentum=ramp"], ["there is beta1, beta2, eps, l2, dropout.input, dropout.p\n"],
    ),
    "two schedules for one number": (["schedules.eps=ramp", "schedules.eps=cosine"], ["schedules.eps ", "more than once"]),
    "no option": (["~optimizer"], ["optimizer", "choose one of", "adam"]),
    # options inside options
    "unknown option inside an option": (
        ["schedule=warmup", "schedule.then=cosin"], ["schedule.then ", "no option 'cosin'", "did you mean cosine"],
    ),
    "unknown option as Hydra spells it": (["schedule=warmup", "schedule@schedule.then=cosin"], ["schedule.then ", "did you mean cosine"]),
    "an inner key out of range": (
        ["schedule=warmup", "schedule.then=cosine", "schedule.then.final=2", "schedule.length=-1"],
        ["2 problems", "schedule.then.final", "<= 1, got 2", "schedule.length", ">= 0, got -1"],
    ),
    "unknown inner key": (
        ["schedule=warmup", "schedule.then.finl=0.1", "schedule.then=cosine"], ["1 problem", "schedule.then.finl", "did you mean final"],
    ),
    "unknown option and keys below it": (
        ["schedule=warmup", "schedule.then=cosin", "schedule.then.final=0.1", "schedule.length=-1"],
        ["2 problems", "did you mean cosine", "schedule.length"],
    ),
    "an inner option where none is held": (["schedule.then=cosine"], ["schedule.then ", "schedule=warmup would have it"]),
    "a key of another option": (["schedule.final=0.1"], ["schedule.final", "here; schedule=cosine, schedule=linear", "schedule=warm_restarts would have it"]),
    "an inner class without a name": (
        ["schedule=warmup", "schedule.then=custom"], ["schedule.then._target_=my_module.MyClass"],
    ),
    "an inner option of another kind": (
        ["schedule=warmup", "schedule.then=custom", "schedule.then._target_=mine.NotAComponent"], ["schedule ", "fails", "TypeError"],
    ),
    "a bad inner option of a sweep": (
        ["-m", "schedule=warmup", "schedule.then=cosine,cosin"], ["schedule.then ", "did you mean cosine", "in the run schedule.then=cosin"],
    ),
    "an unknown rule inside a rule": (["optimizer=sam", "optimizer.base_optimizer=adm"], ["optimizer.base_optimizer ", "no option 'adm'", "did you mean adam"]),
    "a key of the rule inside": (["optimizer=sam", "optimizer.lr=0.1"], ["optimizer.lr", "there is optimizer.base_optimizer.lr"]),
    "a schedule as the rule inside": (
        ["optimizer=sam", "optimizer.base_optimizer._target_=dlopt.schedule.constant.ConstantSchedule"],
        ["optimizer.base_optimizer._target_", "ConstantSchedule must be a subclass of dlopt.parts.Optimizer"],
    ),
    "a rule inside that is no dataclass": (
        ["optimizer=sam", "optimizer.base_optimizer=custom", "optimizer.base_optimizer._target_=mine.FieldlessDescent"], ["optimizer.base_optimizer._target_", "must be a dataclass"],
    ),
    "a schedule for a rule inside without a rate": (
        [*MINE, "epochs=4", "optimizer=sam", "optimizer.base_optimizer=custom", "optimizer.base_optimizer._target_=mine.NormalizedDescent", "schedule=step", "schedule.every=3"],
        ["schedule ", "SAM has no rate lr", "schedule=constant"],
    ),
    "a rule inside that refuses the net": (
        ["optimizer=sam", "optimizer.base_optimizer=torch_optim", "optimizer.base_optimizer.name=Muon"], ["optimizer ", "Muon"],
    ),
    # torch's rules
    "unknown class of torch.optim": (
        ["optimizer=torch_optim", "optimizer.name=AdmW"], ["optimizer.name", "no AdmW in torch.optim", "did you mean AdamW"],
    ),
    "a class of torch.optim that is none": (["optimizer=torch_optim", "optimizer.name=Optimizer"], ["optimizer.name", "no Optimizer"]),
    "a class of one's own that is not there": (["optimizer=torch_optim", "optimizer.name=mine.Lyon"], ["optimizer.name", "cannot import mine.Lyon"]),
    "a module of one's own that fails": (["optimizer=torch_optim", "optimizer.name=broken.X"], ["optimizer.name", "ZeroDivisionError"]),
    "unknown argument": (
        ["optimizer=torch_optim", "+optimizer.options.weight_decy=1"], ["optimizer.options.weight_decy", "AdamW", "did you mean weight_decay"],
    ),
    "an argument without a plus": (
        ["optimizer=torch_optim", "optimizer.options.eps=1"], ["optimizer.options.eps", "+optimizer.options.eps=..."],
    ),
    "an argument without a plus in braces": (
        ["optimizer=torch_optim", "optimizer.options={eps: 1}"], ["optimizer.options.eps", "+optimizer.options.eps=..."],
    ),
    "text for a number or a tensor": (
        ["optimizer=torch_optim", "optimizer.name=SGD", "+optimizer.options.weight_decay=abc"],
        ["optimizer.options.weight_decay", "must be a number", "'abc'"],
    ),
    "one number for two": (["optimizer=torch_optim", "+optimizer.options.betas=[0.9]"], ["optimizer.options.betas", "a list [a number"]),
    "the rate in another place": (["optimizer=torch_optim", "+optimizer.options.lr=1"], ["optimizer.options.lr", "leave it out"]),
    "arguments that are none": (["optimizer=torch_optim", "optimizer.options=3"], ["optimizer.options", "keys with values, got 3"]),
    "an argument that the class refuses": (
        ["optimizer=torch_optim", "+optimizer.options.eps=-1"], ["optimizer ", "cannot train this network", "-1"],
    ),
    "a class that refuses the net": (["optimizer=torch_optim", "optimizer.name=Muon"], ["optimizer ", "Muon"]),
    "a class that refuses the gradient": (["optimizer=torch_optim", "optimizer.name=SparseAdam"], ["optimizer ", "cannot train this network"]),
    "a class that never asks": (["optimizer=torch_optim", "optimizer.name=mine.IgnoresClosure"], ["optimizer ", "IgnoresClosure", "does not call its closure"]),
    # impossible pairs
    "a warm-up longer than the run": (
        ["schedule=warmup", "epochs=3"], ["schedule ", "160 steps is longer than the run, 96"],
    ),
    "a schedule that makes no factors": (
        ["schedule=custom", "schedule._target_=mine.InfiniteFactor"], ["schedule ", "finite numbers >= 0", "inf"],
    ),
    "a schedule for a rule without a rate": (
        [*MINE, "epochs=4", "optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "schedule=step", "schedule.every=3"],
        ["schedule ", "NormalizedDescent has no rate lr", "schedule=constant"],
    ),
    "1-D augmentation on images": (["data=digits", "augmentation=shift"], ["augmentation.shift", "1-D", "2-D"]),
    "2-D augmentation on series": (
        ["augmentation=custom", "augmentation.custom._target_=mine.ImagesOnly"], ["augmentation.custom", "images (2-D)", "1-D"],
    ),
    "rotations of series": (["augmentation=rotate"], ["augmentation.rotate", "images (2-D)", "1-D"]),
    "batch statistics of one example": (
        ["arch=mlp", "normalization=batch", "batch_size=1"], ["batch_size ", "a mini-batch of one example", "normalization=layer"],
    ),
    "a padding as wide as the image": (
        ["data=digits", "arch=mlp", "augmentation=crop", "augmentation.crop.padding=8"],
        ["augmentation.crop.padding  must be less than height and width, 8 and 8", "got 8"],
    ),
    "a range the wrong way round": (
        ["data=digits", "arch=mlp", "augmentation=cowmix", "augmentation.cowmix.p_low=0.9"],
        ["augmentation.cowmix", "p_low must be at most p_high", "0.9"],
    ),
    "mixed targets for a loss that fails on them": (
        ["data=digits", "arch=mlp", "augmentation=cowmix", "loss=custom", "loss._target_=mine.Hinge"],
        ["1 problem", "loss ", "augmentation.cowmix mixes", "Hinge does not take", "loss=cross_entropy"],
    ),
    "mixed targets for a loss that misreads them": (
        ["data=digits", "arch=mlp", "augmentation=cowmix", "loss=custom", "loss._target_=mine.SumLoss"],
        ["1 problem", "loss ", "augmentation.cowmix mixes", "SumLoss does not take", "not the same of them as of classes"],
    ),
    "a regularization that mixes targets for a loss that fails on them": (
        [*MINE, "regularization=custom", "regularization.custom._target_=mine.SoftTargets", "loss=custom", "loss._target_=mine.Hinge"],
        ["1 problem", "loss ", "regularization.custom mixes", "Hinge does not take", "loss=cross_entropy"],
    ),
    "a regularization of classes on numbers": (
        [*LINE, "loss=mse", "regularization=custom", "regularization.custom._target_=mine.SoftTargets"],
        ["1 problem", "regularization.custom ", "is for classes; the targets of this data are numbers"],
    ),
    "noise on inputs of whole numbers": (
        [*MINE, "data._target_=mine.IntegerBlobs", "arch=custom", "arch._target_=mine.EmbeddingNet", "regularization=custom",
         "regularization.custom._target_=mine.InputNoise"],
        ["1 problem", "regularization.custom ", "(2, 4) int64", "it makes (2, 4) float32"],
    ),
    "convolutions on features": ([*MINE, "arch=cnn"], ["arch", "shape (4,)", "arch=mlp"]),
    "mse on classes": (["loss=mse"], ["loss", "loss=cross_entropy"]),
    "cross entropy on numbers": ([*LINE], ["loss", "loss=mse"]),
    "label noise on numbers": ([*LINE, "loss=mse", "data.label_noise=0.1"], ["data.label_noise", "classes"]),
    "kernels and channels": (["arch.kernels=[5,3]"], ["arch", "kernels"]),
    "too many convolutions": (
        ["arch.channels=[9,9,9,9,9,9,9,9]", "arch.kernels=[5,5,5,5,5,5,5,5]"], ["arch", "nothing is left"],
    ),
    "early stopping without validation": (
        ["regularization=early_stopping", "validation.fraction=0"], ["regularization.early_stopping.monitor", "validation"],
    ),
    "decay by the rate of a rule without one": (
        ["optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "regularization=weight_decay"],
        ["regularization.weight_decay", "NormalizedDescent", "l2"],
    ),
    "shrinking by the rate of a rule without one": (
        ["optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "regularization=l1", "regularization.l1.proximal=true"],
        ["regularization.l1", "NormalizedDescent", "l2"],
    ),
    "changed gradients for a rule that needs them true": (
        ["optimizer=torch_optim", "optimizer.name=LBFGS", "regularization=custom", "regularization.custom._target_=mine.HalfGradient"],
        ["1 problem", "regularization.custom", "changes gradients", "LBFGS needs them as they are"],
    ),
    "clipped gradients for a rule that needs them true": (
        ["optimizer=torch_optim", "optimizer.name=LBFGS", "clip.norm=1", "clip.value=1"],
        ["2 problems", "clip.norm", "changes gradients", "LBFGS needs them as they are", "clip.value"],
    ),
    "clipping to nothing": (["clip.norm=0", "clip.valeu=1"], ["2 problems", "clip.valeu", "did you mean value", "clip.norm", "must be a number > 0 or null"]),
    "clip without its keys": (["clip=1"], ["1 problem", "clip", "clip.norm, clip.value"]),
    "gradient noise for a rule that needs them true": (
        ["optimizer=torch_optim", "optimizer.name=LBFGS", "regularization=gradient_noise"],
        ["1 problem", "regularization.gradient_noise", "LBFGS needs them as they are"],
    ),
    "label smoothing of numbers": (
        [*LINE, "loss=mse", "regularization=label_smoothing"],
        ["1 problem", "regularization.label_smoothing", "is for classes; the targets of this data are numbers"],
    ),
    "label smoothing for a loss that takes classes alone": (
        ["loss=custom", "loss._target_=mine.Hinge", "regularization=label_smoothing"],
        ["1 problem", "loss ", "regularization.label_smoothing mixes", "Hinge does not take"],
    ),
    "shrinking twice by the rate of a rule without one": (
        ["optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "regularization=elastic_net", "regularization.elastic_net.proximal=true"],
        ["1 problem", "regularization.elastic_net", "NormalizedDescent", "l2"],
    ),
    "input noise on tokens": (
        [*MINE, "data._target_=mine.IntegerBlobs", "arch=custom", "arch._target_=mine.EmbeddingNet", "regularization=input_noise"],
        ["1 problem", "regularization.input_noise ", "(2, 4) int64", "it makes (2, 4) float32"],
    ),
    "early stopping that never stops": (
        ["regularization=early_stopping", "regularization.early_stopping.patience=null"],
        ["1 problem", "regularization.early_stopping", "patience and cumulative both null"],
    ),
    "regularizations out of their ranges": (
        ["regularization=[dropconnect,dropout,max_norm,weight_noise]", "regularization.dropconnect.p=1", "regularization.dropout.scale=tset",
         "regularization.max_norm.limit=0", "regularization.weight_noise.std=-1", "regularization.dropout.input=1"],
        ["5 problems", "regularization.dropconnect.p", "regularization.dropout.scale", "one of train, test", "max_norm.limit", "weight_noise.std"],
    ),
    "objective that no run writes": (["objective=val/acc"], ["objective", "did you mean val/accuracy"]),
    "objective of a split that is not there": (
        ["objective=val/accuracy", "validation.fraction=0"], ["objective", "validation split", "objective=train/accuracy"],
    ),
    # data
    "batch larger than the split": (["batch_size=3201"], ["batch_size", "3200", "full"]),
    "more training examples than there are": (["data.train_size=5000"], ["data.train_size", "at most 4000", "1000 of the test split"]),
    "more of them in one run of a learning curve": (
        ["-m", "data.train_size=500,4000,8000"], ["1 problem", "data.train_size", "at most 4000", "in the run data.train_size=8000"],
    ),
    "a learning curve that begins below the batch": (
        ["-m", "data.train_size=100,500"],
        ["1 problem", "batch_size", "80 training examples left by validation.fraction=0.2", "in the run data.train_size=100"],
    ),
    "nothing left to train on": (["data.train_size=1", "validation.fraction=0.9"], ["validation.fraction", "nothing to train on"]),
    "an empty training split": ([*MINE, "data._target_=mine.FaultyData", "+data.how=empty"], ["data", "nothing to train on"]),
    # people's files
    "official files that are not there": (
        ["data=fashion_mnist", "data.path=empty", "data.url=null"], ["data.path", "train-images-idx3-ubyte.gz", "empty", "data.url"],
    ),
    "an address that is none": (["data=mnist", "data.path=empty", "data.url=here"], ["data.url", "http://", "got here"]),
    "a file in the folder's place": (["data=mnist", "data.path=file", "data.url=null"], ["data.path", "file is a file"]),
    "no official archive": (["data=cifar10", "data.path=empty", "data.url=null"], ["data.path", "cifar-10-binary.tar.gz"]),
    "no file of arrays": (["data=arrays"], ["data.path", "name the file", ".npz"]),
    "no such file of arrays": (["data=arrays", "data.path=mi.npz"], ["data.path", "did you mean my.npz?"]),
    "no such array": (["data=arrays", "data.path=my.npz", "data.target=z"], ["data.target", "no array 'z'", "there is x, y"]),
    "an array that is not finite": (["data=arrays", "data.path=my.npz"], ["data.inputs", "nan in row 2, column 1"]),
    "a share of all": (["data=arrays", "data.path=my.npz", "data.test_fraction=1"], ["data.test_fraction", "> 0 and < 1"]),
    "no column to predict": (["data=table", "data.path=my.csv"], ["data.target", "name the column", "size, rooms, price"]),
    "no such column": (["data=table", "data.path=my.csv", "data.target=prize"], ["data.target", "did you mean price?"]),
    "text among numbers": (["data=table", "data.path=my.csv", "data.target=price"], ["data.categorical", "'big' in line 3"]),
    "a table of numbers": (
        ["data=table", "data.path=my.csv", "data.target=price", "data.drop=[size]"], ["loss", "for classes", "are numbers", "loss=mse"],
    ),
    # devices
    "a device that is not there": (["device=cuda:97"], ["device", "cuda:97 is not there", "device=auto"]),
    "no device at all": (["device=gpu"], ["device", "auto, cpu, cuda"]),
    # people's own
    "a module that is not there": (["optimizer._target_=nowhere.Rule"], ["optimizer._target_", "nowhere"]),
    "a module that fails": (["optimizer._target_=broken.Rule"], ["optimizer._target_", "broken.Rule", "ZeroDivisionError"]),
    "a class that is not there": (["optimizer._target_=mine.Rule"], ["optimizer._target_", "mine.Rule"]),
    "a class of another kind": (["optimizer._target_=mine.NotAComponent"], ["optimizer._target_", "dlopt.parts.Optimizer"]),
    "custom without a class": (["arch=custom"], ["arch._target_", "arch._target_=my_module.MyClass"]),
    "custom of a list without a class": (["diagnostic=custom"], ["diagnostic.custom._target_"]),
    "a key that the class needs": (["optimizer=custom", "optimizer._target_=mine.Sign"], ["optimizer.lr", "+optimizer.lr"]),
    "an augmentation that fails": ([*FAULTY, "+augmentation.custom.how=error"], ["1 problem", "augmentation.custom", "fails", "IndexError"]),
    "an augmentation of another shape": (
        [*FAULTY, "+augmentation.custom.how=shape"], ["1 problem", "augmentation.custom", "must make inputs and targets", "it makes (2, 3) float32"],
    ),
    "an augmentation of another type": (
        [*FAULTY, "+augmentation.custom.how=type"], ["1 problem", "augmentation.custom", "must make", "(2,) int64", "(2,) float32"],
    ),
    "an augmentation that makes one thing": ([*FAULTY, "+augmentation.custom.how=one"], ["1 problem", "augmentation.custom", "it makes (2, 4) float32\n"]),
    "an augmentation that is not repeatable": (
        [*FAULTY, "+augmentation.custom.how=random"], ["1 problem", "augmentation.custom", "global generator", "dlopt.prng"],
    ),
    "an augmentation in place": (
        [*FAULTY, "+augmentation.custom.how=in_place"], ["1 problem", "augmentation.custom", "changes the batch"],
    ),
    "no network": (["arch=custom", "arch._target_=mine.ConstantInit"], ["arch", "torch.nn.Module"]),
    "a network of the wrong shape": (["arch=custom", "arch._target_=mine.WrongShapeNet"], ["arch", "(2, 11)", "(2, 10)"]),
    "a network that is not repeatable": (["arch=custom", "arch._target_=mine.Impure"], ["arch", "global generator", "nn.Dropout"]),
    "a network that changes itself": (
        ["arch=custom", "arch._target_=mine.Impure", "+arch.how=buffer"], ["arch", "buffer count", "dlopt.parts.BatchStatisticsModule"],
    ),
    "data of numpy": ([*MINE, "data._target_=mine.FaultyData", "+data.how=numpy"], ["data", "must be tensors"]),
    "data of two lengths": ([*MINE, "data._target_=mine.FaultyData", "+data.how=lengths"], ["data", "60 inputs and 50 targets"]),
    "labels beyond the outputs": ([*MINE, "data._target_=mine.FaultyData", "+data.how=labels"], ["data", "labels must be 0 to 1"]),
    "labels of a wrong type": ([*MINE, "data._target_=mine.FaultyData", "+data.how=types"], ["data", "int64", "int32"]),
    "inputs that are not finite": ([*MINE, "data._target_=mine.FaultyData", "+data.how=infinite"], ["data", "not finite"]),
    "test examples of another shape": ([*MINE, "data._target_=mine.FaultyData", "+data.how=shapes"], ["data", "test examples"]),
    "no data set": ([*MINE, "data._target_=mine.FaultyData", "+data.how=tuple"], ["data", "dlopt.parts.Dataset", "tuple"]),
    # folds
    "another scheme": (["validation.scheme=kfolds"], ["1 problem", "validation.scheme", "one of holdout, kfold"]),
    "no fold chosen": (
        ["validation.scheme=kfold"],
        ["1 problem", "validation.fold ", "one of the 5 folds", "add -m for a run of each", "choose one: validation.fold=0"],
    ),
    "no fold chosen of few examples": (
        [*MINE, "validation.scheme=kfold", "data.train_size=2"], ["1 problem", "validation.fold ", "choose one"],
    ),
    "a fold without folds": (["validation.fold=0"], ["1 problem", "validation.fold ", "add that, or leave it out"]),
    "folds without a scheme": (["validation.k=10"], ["1 problem", "validation.k ", "validation.scheme=kfold: add that"]),
    "a fold beyond the last": (
        ["validation.scheme=kfold", "validation.k=3", "validation.fold=3"], ["1 problem", "validation.fold ", "0 to 2", "validation.k=3", "got 3"],
    ),
    "a fold before the first": (["validation.scheme=kfold", "validation.fold=-1"], ["1 problem", "validation.fold ", ">= 0 or null"]),
    "a single fold": (["validation.scheme=kfold", "validation.k=1", "validation.fold=0"], ["1 problem", "validation.k ", ">= 2, got 1"]),
    "a share for folds": (
        ["validation.scheme=kfold", "validation.fold=0", "++validation.fraction=0.3"],
        ["1 problem", "validation.fraction ", "validation.scheme=holdout", "one of validation.k=5 parts", "leave it out"],
    ),
    "more folds than examples": (
        [*MINE, "validation.scheme=kfold", "validation.fold=1", "validation.k=61"],
        ["1 problem", "validation.k ", "61 folds of 60 training examples", "empty", "make fewer"],
    ),
    "more folds than examples are kept": (
        [*MINE, "validation.scheme=kfold", "validation.fold=0", "data.train_size=4"], ["1 problem", "validation.k ", "5 folds of 4"],
    ),
    "folds of no examples": ([*MINE, "data._target_=mine.FaultyData", "+data.how=empty", "validation.scheme=kfold", "validation.fold=0"], ["data", "no examples"]),
    "batch larger than what a fold leaves": (
        ["validation.scheme=kfold", "validation.k=2", "validation.fold=1", "batch_size=2001"],
        ["1 problem", "batch_size", "2000 training examples left by a fold of validation.k=2", "full"],
    ),
    "one bad fold of several": (
        ["-m", "validation.scheme=kfold", "validation.fold=0,5"], ["1 problem", "validation.fold ", "0 to 4", "in the run validation.fold=5"],
    ),
    "too little held out": (["validation.fraction=0.0001"], ["validation.fraction", "is none"]),
    "far too many threads": (["threads=100000"], ["threads", "cores"]),
    # places
    "no place for the configuration": (["hydra.output_subdir=null"], ["hydra.output_subdir", ".hydra"]),
    "one directory for two runs": (["-m", "hydra.sweep.subdir=x", "seed=0,1"], ["hydra.sweep.subdir", "number of the trial"]),
    "a directory that holds a run": (["hydra.run.dir=taken"], ["hydra.run.dir", "already holds a run", "resume=taken"]),
    "a directory that cannot be made": (["hydra.run.dir=file/x"], ["hydra.run.dir", "file is a file"]),
    "nothing to resume": (["resume=nothing"], ["resume", "no runs"]),
    # sweeps
    "one bad option of a sweep": (["-m", "optimizer=sgd,adm"], ["optimizer", "did you mean adam", "optimizer=adm"]),
    "one bad value of a sweep": (["-m", "optimizer.lr=0.1,-1"], ["optimizer.lr", "> 0", "optimizer.lr=-1"]),
    "a key that one option lacks": (["-m", "optimizer=sgd,adam", "optimizer.beta1=0.5"], ["optimizer.beta1", "optimizer=sgd"]),
    "a sweep's directory that cannot be made": (["-m", "hydra.sweep.dir=file/x", "seed=0,1"], ["hydra.sweep.dir", "file"]),
    "unknown sweeper": (["-m", "hydra/sweeper=tp", "seed=0,1"], ["1 problem", "hydra/sweeper ", "no option 'tp'; did you mean tpe?"]),
    "unknown launcher": (["-m", "hydra/launcher=pol", "seed=0,1"], ["1 problem", "hydra/launcher ", "no option 'pol'; did you mean pool?"]),
    "unknown sweeper of a single run": (["hydra/sweeper=tp"], ["1 problem", "did you mean tpe?"]),
    "two sweepers": (["-m", "hydra/sweeper=tpe,grid", "seed=0,1"], ["1 problem", "hydra/sweeper ", "tpe,grid; a search takes one"]),
    "null for a sweeper": (["-m", "hydra/sweeper=null", "seed=0,1"], ["1 problem", "needs the name of an option; there is grid, qmc, random, tpe"]),
    "a number for a sweeper": (["-m", "hydra.sweeper=3", "seed=0,1"], ["1 problem", "hydra/sweeper ", "grid, random, tpe, qmc"]),
    "unknown group of Hydra's": (["-m", "hydra/swepeer=tpe", "seed=0,1"], ["1 problem", "hydra/swepeer ", "did you mean hydra/sweeper?"]),
    "unknown part of Hydra": (["-m", "hydra.sweper.trials=4", "seed=0,1"], ["1 problem", "hydra.sweper ", "did you mean sweeper?"]),
    "a key of an unknown group": (["optimzer.lr=1"], ["1 problem", "optimzer ", "did you mean optimizer?"]),
    "unknown key of a search": (["-m", "hydra.sweeper.trails=5", "seed=0,1"], ["1 problem", "hydra.sweeper.trails ", "did you mean n_trials?"]),
    "unknown key of a sampler": (["-m", "hydra.sweeper.tpe.n_startup_trals=5", "seed=0,1"], ["1 problem", "hydra.sweeper.tpe.n_startup_trals ", "did you mean n_startup_trials?"]),
    "unknown key of a launcher": (["-m", "hydra/launcher=pool", "hydra.launcher.wokers=2", "seed=0,1"], ["1 problem", "did you mean workers?"]),
    "a key of another launcher": (["-m", "hydra.launcher.workers=2", "seed=0,1"], ["1 problem", "hydra.launcher.workers ", "hydra/launcher=pool would have it"]),
    "text for the workers": (["-m", "hydra/launcher=pool", "hydra.launcher.workers=abc", "seed=0,1"], ["hydra.launcher.workers ", "whole number >= 1", "auto"]),
    "text for the trials": (["-m", "hydra.sweeper.n_trials=abc", "seed=0,1"], ["1 problem", "hydra.sweeper.n_trials ", "whole number >= 1 or null, got 'abc'"]),
    "several numbers of trials": (["-m", "hydra.sweeper.n_trials=3,4", "seed=0,1"], ["1 problem", "hydra.sweeper.n_trials ", "3,4; a search takes one"]),
    "unknown pruner": (["-m", "hydra.sweeper.pruner=medain", "seed=0,1"], ["1 problem", "hydra.sweeper.pruner ", "none, median, hyperband, got 'medain'"]),
    "a negative startup": (["-m", "hydra.sweeper.tpe.n_startup_trials=-1", "seed=0,1"], ["1 problem", "hydra.sweeper.tpe.n_startup_trials ", "must be >= 0, got -1"]),
    "a key of the first option that is searched": (
        ["-m", "hydra/sweeper=tp", "optimizer=momentum,nesterov", "optimizer.momentum=0.8"], ["1 problem", "did you mean tpe?"],
    ),
    "beside a pattern and an interval": (
        ["-m", "hydra/sweeper=tp", "optimizer=glob(ada*)", "epochs=int(interval(1,3))", "optimizer.lr=tag(log,interval(1e-3,1))"],
        ["1 problem", "did you mean tpe?"],
    ),
    "beside another problem": (["-m", "hydra/sweeper=tp", "optimizer=sgd,adam", "epocs=3"], ["2 problems", "did you mean tpe?", "did you mean epochs?"]),
    "another word for -m": (["hydra.mode=MULTIRUN", "hydra.sweeper.n_trials=abc", "seed=0,1"], ["1 problem", "hydra.sweeper.n_trials "]),
    "trials of a single run": (["hydra.sweeper.n_trials=5"], ["1 problem", "hydra.sweeper.n_trials ", "is for a search: add -m"]),
    "a launcher with a dot": (["-m", "hydra.launcher=pool", "seed=0,1"], ["1 problem", "hydra.launcher ", "hydra/launcher=pool"]),
    "a launcher of a single run": (["hydra/launcher=pool"], ["1 problem", "hydra/launcher ", "add -m"]),
    "a sweep's directory of a single run": (["hydra.sweep.dir=x"], ["1 problem", "hydra.sweep.dir ", "add -m"]),
    "yes to a single run": (["--yes"], ["1 problem", "--yes ", "is for a search: add -m"]),
    "a search of a single run": (
        ["hydra/sweeper=tpe", "hydra.sweeper.n_trials=5", "--yes", "epochs=0"],
        ["2 problems", "is for a search, like hydra.sweeper.n_trials and --yes: add -m", "epochs "],
    ),
    # several at once
    "five problems": (
        ["optimizer=adm", "arch=foo", "epochs=0", "init.foo=3", "batch_size=abc"],
        ["5 problems", "adm", "foo", "epochs", "init.foo", "batch_size"],
    ),
    "three problems of values": (
        ["optimizer.lr=nan", "validation.fraction=1", "schedule=cosine", "schedule.final=2"],
        ["3 problems", "optimizer.lr", "validation.fraction", "schedule.final"],
    ),
}  # fmt: skip


def files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*") if "__pycache__" not in str(p)}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, here, capsys):
    (here / "file").touch()
    (here / "taken").mkdir()
    (here / "taken" / "status.json").write_text("{}")
    (here / "broken.py").write_text("1 / 0\n")
    (here / "empty").mkdir()
    (here / "my.csv").write_text("size,rooms,price\n1,3,2.5\nbig,4,3.5\n" + "3,5,4.5\n" * 9)
    np.savez(here / "my.npz", x=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]]), y=np.array([0, 1, 0]))
    before = files(here)
    overrides, said = CASES[name]
    assert main(["train", *overrides]) == 2
    out, err = capsys.readouterr()
    for part in said:
        assert part in err
    assert "Traceback" not in out + err
    assert "HYDRA_FULL_ERROR" not in out + err
    assert out == ""
    assert files(here) == before
    assert "HYDRA_FULL_ERROR" not in os.environ
