"""Wrong command lines: a message with key and remedy for each problem, all at once, exit code 2, no files left."""

import os
import re

import numpy as np
import pytest
from helpers import read_tree

from dlopt.cli import main

MINE = ("data=custom", "data._target_=mine.Blobs", "arch=mlp", "batch_size=16", "epochs=1")
LINE = ("data=custom", "data._target_=mine.Regression", "arch=mlp", "batch_size=16", "epochs=1", "loss=mse")
UNIT = ("optimizer=custom", "optimizer._target_=mine.NormalizedDescent")
FAULTY = (*MINE, "augmentation=custom", "augmentation.custom._target_=mine.FaultyAugmentation")
UNFIT = (*MINE, "data._target_=mine.FaultyData")
KFOLD = "validation.scheme=kfold"

CASES = {
    # several at once: each case is one command, and all its problems are reported
    "names": (
        ["optimzer=adam", "init=hee", "regularization=[l2,dropot]", "optimizer.lrr=1", "epoch=3", "validation.fracton=0.1", "adam",
         "experiment=paper", "arch.kernels=[1,2", "loss=cross_entropy,mse", "seed=0,1", "normalization=null", "diagnostic=1", "clip.valeu=1",
         "schedules.eps=0.5", "hydra/launcher=pol"],
        ["16 problems", "optimzer … did you mean optimizer", "init … no option 'hee' … did you mean he", "regularization … did you mean dropout",
         "optimizer.lrr … did you mean lr", "epoch  … did you mean epochs", "validation.fracton … did you mean fraction", "adam … GROUP=OPTION or KEY=VALUE",
         "experiment … mnist1d_paper", "arch.kernels … cannot be read", "loss … add -m", "seed … add -m", "normalization … needs the name of an option; there is … layer",
         "diagnostic … needs the name of an option; there is … gradients", "clip.valeu … did you mean value",
         "schedules.eps … needs the name of an option; there is … ramp", "hydra/launcher … did you mean pool?"],
    ),
    "values": (
        ["optimizer.lr=abc", "optimizer.beta1=1.0", "optimizer.beta2=inf", "optimizer.eps=nan", "+optimizer.lrr=1", "epochs=2.5", "eval_every=true", "log_every=0",
         "precision=float16", "arch.kernels=3", "arch.channels=[10,0]", "batch_size=half", "validation.fraction=-0.1", "name=a/b", "clip.norm=0",
         "threads=100000", "device=gpu"],
        ["17 problems", "optimizer.lr  … a number > 0 … 'abc'", "optimizer.beta1 … < 1", "optimizer.beta2 … finite … inf", "optimizer.eps … finite … nan", "optimizer.lrr … did you mean lr",
         "epochs … a whole number >= 1 … 2.5", "eval_every … a whole number … true", "log_every … >= 1 or null, got 0", "precision … float32, bfloat16, float64",
         "arch.kernels … a list", "arch.channels … >= 1", "batch_size … full … 'half'", "validation.fraction … >= 0 and < 1", "name … 'a/b'",
         "clip.norm … must be a number > 0 or null", "threads … cores", "device … auto, cpu, cuda"],
    ),
    "regularizations out of their ranges": (
        ["regularization=[dropconnect,dropout,max_norm,weight_noise]", "regularization.dropconnect.p=1", "regularization.dropout.scale=tset",
         "regularization.max_norm.limit=0", "regularization.weight_noise.std=-1", "regularization.dropout.input=1"],
        ["5 problems", "regularization.dropconnect.p", "regularization.dropout.scale … one of train, test", "max_norm.limit", "weight_noise.std"],
    ),
    "values of other types": (["validation=0.1", "clip=1", "epochs=null"], ["3 problems", "validation … validation.fraction", "clip … clip.norm, clip.value", "epochs … null"]),
    "options and settings": (
        ["optimizer=adm", "arch=foo", "epochs=0", "init.foo=3", "batch_size=abc"], ["5 problems", "adm", "foo", "epochs", "init.foo", "batch_size"],
    ),
    "settings without their group": (
        ["lr=0.1", "channels=[3]", "name=a=b", "data.path=x=y"],
        ["4 problems", "lr  … did you mean optimizer.lr?", "channels  … did you mean arch.channels?",
         "name  … equals sign … \"name='a=b'\"\n", "data.path  … \"data.path='x=y'\"\n"],
    ),
    "keys of other tools": (
        ["accumulate_grad_batches=4", "learning_rate=0.1", "gradient_clip_val=1", "weight_decay=0.1"],
        ["4 problems", "accumulate_grad_batches  … micro_batch_size=100 adds the gradients of 4 passes", "learning_rate  … use optimizer.lr\n",
         "gradient_clip_val  … use clip.norm\n", "weight_decay  … use regularization=weight_decay\n"],
    ),
    "settings as flags": (
        ["--epochs", "5", "--batch-size=16", "--lr", "0.1", "--optimizer", "sgd", "--nothing"],
        ["5 problems", "--epochs  … type epochs=5\n", "--batch-size=16  … type batch_size=16\n", "--lr  … type optimizer.lr=0.1\n",
         "--optimizer  … type optimizer=sgd\n", "--nothing  … dlopt train --help shows them"],
    ),
    # one or several options
    "key of an option not chosen": (["regularization.l2.strength=1"], ["regularization=l2 is not chosen"]),
    "key of a misspelt option": (["diagnostic=[sharpness,noise]", "diagnostic.sharpnes.every=3"],
                                 ["there is no option 'sharpnes'; did you mean sharpness?"]),
    "unknown key of an option of a list": (["regularization=l2", "regularization.l2.foo=1"], ["1 problem", "regularization.l2.foo  … l2 has no key foo; there is strength"]),
    "a key of another option of the list": (["regularization=[dropout,l2]", "regularization.l2.p=1"], ["1 problem", "regularization.l2.p  … l2 has no key p; there is strength"]),
    "a misspelled key of an option of a list": (["regularization=[dropout,l2]", "regularization.l2.strenght=1"], ["1 problem", "l2 has no key strenght; did you mean strength"]),
    "an unknown key of a custom option of a list": (
        ["regularization=custom", "regularization.custom._target_=mine.PullBack", "regularization.custom.share=0.5"],
        ["1 problem", "regularization.custom.share  … add it with a plus: +regularization.custom.share=..."],
    ),
    "a list for a group of one": (["optimizer=[sgd,adam]"], ["optimizer … takes one option"]),
    "null for an option in a sweep": (["-m", "optimizer=adam,null"], ["optimizer  … needs the name of an option … in the run optimizer=null"]),
    "a removed option": (["~optimizer"], ["optimizer … choose one of … adam"]),
    # schedules of other hyperparameters
    "a schedule without a hyperparameter": (["schedules=cosine"], ["schedules  … schedules.momentum=ramp … schedule=NAME"]),
    "a list of schedules for one hyperparameter": (["schedules.eps=[ramp,cosine]"], ["1 problem", "schedules.eps  … takes one option"]),
    "schedules of early stopping and of an unknown hyperparameter": (
        ["regularization=[early_stopping,l2,dropout]", "schedules.early_stopping.min_delta=ramp", "schedules.momentum=ramp"],
        ["2 problems", "schedules.early_stopping.min_delta  … early_stopping acts on evaluations", "there is beta1, beta2, eps, l2, dropout.input, dropout.p\n"],
    ),
    "two schedules for one hyperparameter": (["schedules.eps=ramp", "schedules.eps=cosine"], ["schedules.eps  … more than once"]),
    # options inside options
    "an inner key out of range": (
        ["schedule=warmup", "schedule.then=cosine", "schedule.then.final=2", "schedule.length=-1"],
        ["2 problems", "schedule.then.final … <= 1, got 2", "schedule.length … >= 0, got -1"],
    ),
    "unknown inner key": (
        ["schedule=warmup", "schedule.then.finl=0.1", "schedule.then=cosine"], ["1 problem", "schedule.then.finl … did you mean final"],
    ),
    "unknown option and keys below it": (
        ["schedule=warmup", "schedule.then=cosin", "schedule.then.final=0.1", "schedule.length=-1"],
        ["2 problems", "schedule.then  … no option 'cosin'; did you mean cosine", "schedule.length"],
    ),
    "unknown option as Hydra spells it": (["schedule=warmup", "schedule@schedule.then=cosin"], ["schedule.then  … did you mean cosine"]),
    "an inner option where no option is nested": (["schedule.then=cosine"], ["schedule.then  … schedule=warmup would have it"]),
    "a key of another option": (["schedule.final=0.1"], ["schedule.final … here; schedule=cosine, … or schedule=wsd would have it"]),
    "inner classes": (
        ["schedule=warmup", "schedule.then=custom", "optimizer=sam", "optimizer.base_optimizer._target_=dlopt.schedule.constant.ConstantSchedule"],
        ["2 problems", "schedule.then._target_=my_module.MyClass", "optimizer.base_optimizer._target_ … ConstantSchedule must be a subclass of dlopt.parts.Optimizer"],
    ),
    "inner classes of other kinds": (
        ["schedule=warmup", "schedule.then=custom", "schedule.then._target_=mine.NotAComponent",
         "optimizer=sam", "optimizer.base_optimizer=custom", "optimizer.base_optimizer._target_=mine.FieldlessDescent"],
        ["2 problems", "schedule  … fails … TypeError", "optimizer.base_optimizer._target_ … must be a dataclass"],
    ),
    "a bad inner option of a sweep": (
        ["-m", "schedule=warmup", "schedule.then=cosine,cosin"], ["schedule.then  … did you mean cosine … in the run schedule.then=cosin"],
    ),
    "a key of the inner optimizer": (["optimizer=sam", "optimizer.lr=0.1"], ["optimizer.lr … there is optimizer.base_optimizer.lr"]),
    "a schedule for an inner optimizer without a learning rate": (
        [*MINE, "epochs=4", "optimizer=sam", "optimizer.base_optimizer=custom", "optimizer.base_optimizer._target_=mine.NormalizedDescent", "schedule=step", "schedule.every=3"],
        ["schedule  … SAM has no learning rate … schedule=constant"],
    ),
    "a schedule beside a line search": ([*MINE, "optimizer=lbfgs", "schedule=cosine"], ["schedule  … LBFGS has no learning rate to change; use schedule=constant or optimizer.linesearch=fixed"]),
    "weight decay beside an estimated rate": (
        [*MINE, "optimizer=cautious", "optimizer.base_optimizer=prodigy", "regularization=weight_decay"],
        ["regularization.weight_decay  … Cautious estimates it; use a penalty, such as l2, or optimizer.base_optimizer.weight_decay"],
    ),
    "weight decay beside a line search": ([*MINE, "optimizer=lbfgs", "regularization=weight_decay"], ["regularization.weight_decay  … LBFGS has none; use a penalty, such as l2, or optimizer.linesearch=fixed"]),
    "a line search of its own": ([*MINE, "linesearch=armijo"], ["linesearch  is chosen inside an option that has one, as optimizer.linesearch=NAME"]),
    "a line search that does not exist": ([*MINE, "optimizer=lbfgs", "optimizer.linesearch=wolfe"], ["optimizer.linesearch … wolfe"]),
    "keys of another line search": ([*MINE, "optimizer=lbfgs", "optimizer.linesearch=armijo", "optimizer.linesearch.c2=0.5"], ["optimizer.linesearch.c2 … no such key"]),
    "a line search of another class": ([*MINE, "optimizer=lbfgs", "optimizer.linesearch=custom", "optimizer.linesearch._target_=mine.Sawtooth"], ["optimizer.linesearch._target_  Sawtooth must be a subclass of dlopt.parts.LineSearch"]),
    "an inner optimizer that refuses the network": ([*MINE, "optimizer=sam", "optimizer.base_optimizer=torch_optim", "optimizer.base_optimizer.name=Muon"], ["optimizer  … Muon"]),
    "a custom optimizer with another signature": (
        [*MINE, "optimizer=custom", "optimizer._target_=mine.OneArgumentInit"], ["optimizer  … OneArgumentInit.init … init(self, w, layout)"],
    ),
    "a custom optimizer that returns the weights": (
        [*MINE, "optimizer=custom", "optimizer._target_=mine.BareStep"], ["optimizer  … BareStep.step must return Step … returns a Tensor"],
    ),
    "a custom optimizer whose state fails": (
        [*MINE, "optimizer=custom", "optimizer._target_=mine.FaultyInit"], ["optimizer  … FaultyInit.init fails … ZeroDivisionError"],
    ),
    "a custom optimizer that reports a vector": (
        [*MINE, "optimizer=custom", "optimizer._target_=mine.VectorInfo"], ["optimizer  … VectorInfo: info['direction'] … must be a tensor of shape (), got shape ("],
    ),
    "a custom optimizer that reports a float": (
        [*MINE, "optimizer=custom", "optimizer._target_=mine.NumberInfo"], ["optimizer  … NumberInfo: info['rate'] … must be a tensor of shape (), got a float"],
    ),
    # functions of the weights alone
    "a surface with data": (["arch=surface"], ["1 problem", "arch  … Surface is a function of its weights and takes no inputs: add data=none"]),
    "a custom function with data": (
        [*MINE[:2], "arch=custom", "arch._target_=mine.Valley", "batch_size=16"], ["1 problem", "arch  … Valley is a function … add data=none"],
    ),
    "no data for a network": (["data=none", "arch=mlp"], ["1 problem", "arch  … MLP needs inputs, and data=none has none: choose arch=surface"]),
    "choices that need inputs, targets or several examples": (
        ["data=none", "preprocess=standardize", "augmentation=shift", "regularization=[dropout,label_smoothing,input_noise]",
         "validation.scheme=kfold", "validation.fold=0", "batch_size=10"],
        ["8 problems", "preprocess.standardize  … changes inputs, and data=none has none: leave it out", "augmentation.shift  … changes inputs",
         "regularization.label_smoothing  … is for classes", "regularization.dropout  … changes inputs or targets", "regularization.input_noise  … changes inputs",
         "validation.fold  … holds out examples, and data=none has none: leave it out", "validation.scheme  … holds out",
         "batch_size  … must be full, got 10"],
    ),
    "metrics and losses that need targets": (["data=none", "loss=mse"], ["1 problem", "loss  … MeanSquaredError compares outputs with targets, and data=none has none: use loss=output"]),
    "accuracy of a surface": (["data=none", "objective=val/accuracy"], ["1 problem", "objective  … OutputLoss does not measure accuracy; it measures loss"]),
    "early stopping of a surface": (
        ["data=none", "regularization=early_stopping"], ["1 problem", "regularization.early_stopping.monitor  … needs a validation split; use train/loss"],
    ),
    "unknown surface": (["data=none", "arch.function=beal"], ["arch.function  … must be one of beale, rosenbrock"]),
    "a parameter of another surface": (["data=none", "arch.condition=10"], ["arch.condition  … is a parameter of ill_conditioned, and beale has none of this name: leave it out"]),
    "a starting point of another size": (["data=none", "arch.function=ill_conditioned", "arch.n=3", "arch.start=[1,2]"], ["arch.start  … must be 3 finite numbers, got [1, 2]"]),
    "a file for no data": (["data=none", "data.path=x"], ["data.path  … leave it out"]),
    "a quadratic of other data": (["arch=quadratic"], ["arch  … needs examples of 100 features, got the shape (1, 40)"]),
    "bfloat16 for second derivatives": (
        [*MINE, "optimizer=newton", "precision=bfloat16"], ["1 problem", "precision  … too few for Newton … precision=float32 or precision=float64"],
    ),
    "bfloat16 for an inner optimizer with second derivatives": (
        [*MINE, "optimizer=sam", "optimizer.base_optimizer=newton", "precision=bfloat16"], ["1 problem", "precision  … too few for SAM"],
    ),
    "bfloat16 for a diagnostic": (
        [*MINE, "diagnostic=[gradients,sharpness]", "precision=bfloat16"], ["1 problem", "precision  … too few for diagnostic.sharpness"],
    ),
    "a layer without a second derivative": (
        [*MINE[:2], "arch=custom", "arch._target_=mine.DistanceNet", "batch_size=16", "diagnostic=curvature"],
        ["1 problem", "diagnostic.curvature  uses second derivatives: distances (Distances) has no second derivative … put another layer"],
    ),
    "a layer without a second derivative for an optimizer": (
        [*MINE[:2], "arch=custom", "arch._target_=mine.DistanceNet", "batch_size=16", "optimizer=newton"], ["1 problem", "optimizer  uses second derivatives"],
    ),
    "bfloat16 for a line search": (
        [*MINE, "optimizer=torch_optim", "optimizer.name=LBFGS", "precision=bfloat16"], ["1 problem", "precision  … too few for LBFGS"],
    ),
    "a dense Hessian of many weights": (
        [*MINE, "optimizer=newton", "optimizer.solver=dense", "arch.widths=[200,100]"], ["optimizer  … the Hessian of 21,403 weights would take 7.3 GB of memory, and minutes … use optimizer.solver=cg"],
    ),
    # torch's optimizers
    "unknown class of torch.optim": (["optimizer=torch_optim", "optimizer.name=AdmW"], ["optimizer.name … no AdmW in torch.optim … did you mean AdamW"]),
    "a class that is not in torch.optim": (["optimizer=torch_optim", "optimizer.name=Optimizer"], ["optimizer.name … no Optimizer"]),
    "a custom class that does not exist": (["optimizer=torch_optim", "optimizer.name=mine.Lyon"], ["optimizer.name … module mine has no class Lyon; did you mean Lion?"]),
    "a custom class with a typing error": (["optimizer=custom", "optimizer._target_=mine.Sing"], ["module mine has no class Sing; did you mean Sign?"]),
    "a custom module that does not exist": (["optimizer=custom", "optimizer._target_=nowhere.Sign"], ["cannot import nowhere.Sign (No module named 'nowhere'); modules are looked for"]),
    "a custom module that fails": (
        ["optimizer=torch_optim", "optimizer.name=broken.X"],
        ["optimizer.name … importing broken.X fails: ZeroDivisionError: division by zero (broken.py, line 1)"],
    ),
    "a custom class that fails": (
        [*MINE, "optimizer=custom", "optimizer._target_=faulty_rule.Rule"], ["1 problem", "optimizer  … TypeError: object of type 'int' has no len() (faulty_rule.py, line 4)"],
    ),
    "a key of a custom class without a plus": (
        ["optimizer=custom", "optimizer._target_=mine.Sign", "optimizer.lr=.001"], ["1 problem", "optimizer.lr  … add it with a plus: +optimizer.lr=..."],
    ),
    "arguments": (
        ["optimizer=torch_optim", "+optimizer.options.weight_decy=1", "+optimizer.options.betas=[0.9]", "+optimizer.options.lr=1", "+optimizer.options.weight_decay=abc"],
        ["4 problems", "optimizer.options.weight_decy … AdamW … did you mean weight_decay", "optimizer.options.betas … a list [a number",
         "optimizer.options.lr … leave it out", "optimizer.options.weight_decay … must be a number … 'abc'"],
    ),
    "an argument without a plus": (["optimizer=torch_optim", "optimizer.options.eps=1"], ["optimizer.options.eps … +optimizer.options.eps=..."]),
    "an argument without a plus in braces": (["optimizer=torch_optim", "optimizer.options={eps: 1}"], ["optimizer.options.eps … +optimizer.options.eps=..."]),
    "arguments that are not a mapping": (["optimizer=torch_optim", "optimizer.options=3"], ["optimizer.options … keys with values, got 3"]),
    "an argument that the class refuses": ([*MINE, "optimizer=torch_optim", "+optimizer.options.eps=-1"], ["optimizer  … cannot train this network … -1"]),
    "a class that refuses the gradient": ([*MINE, "optimizer=torch_optim", "optimizer.name=SparseAdam"], ["optimizer  … cannot train this network"]),
    "a class that does not call its closure": ([*MINE, "optimizer=torch_optim", "optimizer.name=mine.IgnoresClosure"], ["optimizer  … IgnoresClosure … does not call its closure"]),
    # impossible pairs
    "a warm-up longer than the run": (["schedule=warmup", "epochs=3"], ["schedule  … 160 steps is longer than the run, 96"]),
    "a schedule that makes no factors": (["schedule=custom", "schedule._target_=mine.InfiniteFactor"], ["schedule  … finite numbers >= 0 … inf"]),
    "1-D augmentation on images": (["data=digits", "augmentation=shift"], ["augmentation.shift … 1-D … 2-D"]),
    "2-D augmentation on series": (["augmentation=rotate"], ["augmentation.rotate … images (2-D) … 1-D"]),
    "batch statistics of one example": (
        ["arch=mlp", "normalization=batch", "batch_size=1"], ["batch_size  … a mini-batch of one example … normalization=layer"],
    ),
    "a padding as wide as the image, and a range the wrong way round": (
        ["data=digits", "arch=mlp", "augmentation=[crop,cowmix]", "augmentation.crop.padding=8", "augmentation.cowmix.p_low=0.9"],
        ["2 problems", "augmentation.crop.padding  … must be less than height and width, 8 and 8 … got 8", "augmentation.cowmix … p_low must be at most p_high … 0.9"],
    ),
    "mixed targets for a loss that fails on them": (
        [*MINE, "regularization=custom", "regularization.custom._target_=mine.SoftTargets", "loss=custom", "loss._target_=mine.Hinge"],
        ["1 problem", "loss  … regularization.custom mixes … Hinge does not take … loss=cross_entropy"],
    ),
    "mixed targets for a loss that misreads them": (
        ["data=digits", "arch=mlp", "augmentation=cowmix", "loss=custom", "loss._target_=mine.SumLoss"],
        ["1 problem", "loss  … augmentation.cowmix mixes … SumLoss does not take … not the same of them as of classes"],
    ),
    "regularization and label noise of classes on numbers": (
        [*LINE, "regularization=[label_smoothing,custom]", "regularization.custom._target_=mine.SoftTargets", "data.label_noise=0.1"],
        ["3 problems", "regularization.label_smoothing … is for classes; the targets of this data are numbers", "regularization.custom  … is for classes", "data.label_noise … classes"],
    ),
    "noise on integer inputs": (
        [*MINE, "data._target_=mine.IntegerBlobs", "arch=custom", "arch._target_=mine.EmbeddingNet", "regularization=[input_noise,custom]",
         "regularization.custom._target_=mine.InputNoise"],
        ["2 problems", "regularization.custom  … (2, 4) int64 … it makes (2, 4) float32", "regularization.input_noise  … (2, 4) int64"],
    ),
    "convolutions on features": ([*MINE, "arch=cnn"], ["arch … shape (4,) … arch=mlp"]),
    "mse on classes": (["loss=mse"], ["loss … loss=cross_entropy"]),
    "cross entropy on numbers": ([*LINE[:-1], "loss=cross_entropy"], ["loss … loss=mse"]),
    "kernels and channels": (["arch.kernels=[5,3]"], ["arch … kernels"]),
    "too many convolutions": (["arch.channels=[9,9,9,9,9,9,9,9]", "arch.kernels=[5,5,5,5,5,5,5,5]"], ["arch … nothing is left"]),
    "objective and monitor without validation": (
        ["regularization=early_stopping", "validation.fraction=0", "objective=val/accuracy"],
        ["2 problems", "regularization.early_stopping.monitor … validation", "objective … validation split … objective=train/accuracy"],
    ),
    "objective that no run writes": (["objective=val/acc"], ["objective … did you mean val/accuracy"]),
    "metrics of numbers on classes": (
        ["objective=val/mae", "regularization=early_stopping", "regularization.early_stopping.monitor=val/r2"],
        ["2 problems", "objective  … CrossEntropy does not measure mae", "monitor  … does not measure r2; it measures loss, accuracy"],
    ),
    "a metric that the loss cannot measure": ([*LINE, "objective=val/auc"], ["objective  … does not measure auc; it measures loss, r2, mae"]),
    "an optimizer without a learning rate": (
        [*MINE, "epochs=4", *UNIT, "regularization=[weight_decay,l1,elastic_net]", "regularization.l1.proximal=true", "regularization.elastic_net.proximal=true",
         "schedule=step", "schedule.every=3"],
        ["4 problems", "regularization.weight_decay … NormalizedDescent … l2", "regularization.l1 … NormalizedDescent … l2", "regularization.elastic_net … NormalizedDescent … l2", "schedule  … NormalizedDescent has no learning rate … schedule=constant"],
    ),
    "changed gradients for an optimizer that needs true ones": (
        ["optimizer=torch_optim", "optimizer.name=LBFGS", "clip.norm=1", "clip.value=1", "regularization=[gradient_noise,custom]", "regularization.custom._target_=mine.HalfGradient"],
        ["4 problems", "clip.norm … changes gradients … LBFGS needs them as they are", "clip.value", "regularization.custom … changes gradients",
         "regularization.gradient_noise … LBFGS needs them as they are"],
    ),
    "early stopping that never stops": (
        ["regularization=early_stopping", "regularization.early_stopping.patience=null"],
        ["1 problem", "regularization.early_stopping … patience and cumulative both null"],
    ),
    # data
    "batch larger than the split": (["batch_size=3201"], ["batch_size … 3200 … full"]),
    "more training examples than there are": (["data.train_size=5000"], ["data.train_size … at most 4000 … 1000 of the test split"]),
    "too many training examples in one run of a learning curve": (
        ["-m", "data.train_size=500,4000,8000"], ["1 problem", "data.train_size … at most 4000 … in the run data.train_size=8000"],
    ),
    "a learning curve that begins below the batch": (
        ["-m", "data.train_size=100,500"],
        ["1 problem", "batch_size … 80 training examples left by validation.fraction=0.2 … in the run data.train_size=100"],
    ),
    "nothing left to train on": (["data.train_size=1", "validation.fraction=0.9"], ["validation.fraction … nothing to train on"]),
    "an empty training split": ([*MINE, "data._target_=mine.FaultyData", "+data.how=empty"], ["data … nothing to train on"]),
    "too little held out": (["validation.fraction=0.0001"], ["validation.fraction … rounds to zero"]),
    # files of the user
    "names of columns that need quotes": (
        ["data=table", "data.path=my.csv", "data.target=2021", "data.drop=[3,a]", "loss=mse"],
        ["2 problems", "data.target … got 2021; quote text: \"data.target='2021'\"", "quote text: \"data.drop=['3','a']\""],
    ),
    "a name that is not ASCII": (
        ["data=table", "data.path=my.csv", "data.target=größe"], ["data.target … letters that are not ASCII: \"data.target='größe'\""],
    ),
    "a path with an equals sign": (
        ["data=table", "data.path=./k=1.csv"], ["data.path … quote an equals sign … \"data.path='./k=1.csv'\""],
    ),
    "ratings as numbers": (
        ["data=table", "data.path=my.csv", "data.target=rooms", "data.categorical=[size]", "loss=mse", "data.missing=drop"],
        ["loss … or data.kind=numbers to predict 3, 4, 5 as numbers"],
    ),
    "missing official files": (
        ["data=fashion_mnist", "data.path=empty", "data.url=null"], ["data.path … train-images-idx3-ubyte.gz … empty … data.url"],
    ),
    "an invalid address": (["data=mnist", "data.path=empty", "data.url=here"], ["data.url … http:// … got here"]),
    "a file in place of the folder": (["data=mnist", "data.path=file", "data.url=null"], ["data.path … file is a file"]),
    "a missing official archive": (["data=cifar10", "data.path=empty", "data.url=null"], ["data.path … cifar-10-binary.tar.gz"]),
    "a link to no file": (["data=arrays", "data.path=dangling.npz"], ["data.path  … dangling.npz is a link to nowhere.npz, which does not exist"]),
    "a device in place of a file": (["data=table", "data.path=/dev/zero", "data.target=x"], ["data.path  … /dev/zero is a pipe or a device; name a file"]),
    "a missing file of arrays": (["data=arrays"], ["data.path … name the file … .npz"]),
    "an array that is not finite": (["data=arrays", "data.path=my.npz"], ["data.inputs … nan in row 2, column 1"]),
    "an unknown column": (["data=table", "data.path=my.csv", "data.target=prize"], ["data.target … did you mean price?"]),
    "a table of numbers": (
        ["data=table", "data.path=my.csv", "data.target=price", "data.drop=[size]", "loss=cross_entropy"], ["loss … for classes … are numbers … loss=mse"],
    ),
    "a missing device": (["device=cuda:97"], ["device … cuda:97 is not there … device=auto"]),
    # custom components
    "modules and classes": (
        ["optimizer._target_=nowhere.Rule", "schedule._target_=broken.Rule", "init._target_=mine.Rule", "arch=custom", "diagnostic=custom",
         "augmentation=custom", "augmentation.custom._target_=mine.NotAComponent"],
        ["6 problems", "optimizer._target_ … nowhere", "schedule._target_ … broken.Rule … ZeroDivisionError", "init._target_ … module mine has no class Rule; there is … Blobs",
         "arch._target_ … arch._target_=my_module.MyClass", "diagnostic.custom._target_"],
    ),
    "a class of another kind": (["optimizer._target_=mine.NotAComponent"], ["optimizer._target_ … dlopt.parts.Optimizer"]),
    "a key that the class needs": (["optimizer=custom", "optimizer._target_=mine.Sign"], ["optimizer.lr … +optimizer.lr"]),
    **{
        f"an augmentation: {how}": ([*FAULTY, f"+augmentation.custom.how={how}"], ["1 problem", f"augmentation.custom … {words}"])
        for how, words in {
            "error": "fails … IndexError", "shape": "must make inputs and targets … it makes (2, 3) float32", "type": "must make … (2,) int64 … (2,) float32",
            "one": "it makes (2, 4) float32\n", "random": "global generator … dlopt.prng", "in_place": "changes the batch",
        }.items()
    },
    "no network": (["arch=custom", "arch._target_=mine.ConstantInit"], ["arch … torch.nn.Module"]),
    "a network of the wrong shape": (["arch=custom", "arch._target_=mine.WrongShapeNet"], ["arch … (2, 11) … (2, 10)"]),
    "a network that is not repeatable": (["arch=custom", "arch._target_=mine.Impure"], ["arch … global generator … nn.Dropout"]),
    "a network that changes itself": (
        ["arch=custom", "arch._target_=mine.Impure", "+arch.how=buffer"], ["arch … buffer count … dlopt.parts.BatchStatisticsModule"],
    ),
    **{
        f"data: {how}": ([*UNFIT, f"+data.how={how}"], [f"data … {words}"])
        for how, words in {
            "numpy": "must be tensors", "lengths": "60 inputs and 50 targets", "labels": "labels must be 0 to 1", "types": "int64 … int32",
            "infinite": "not finite", "shapes": "test examples", "tuple": "dlopt.parts.Dataset … tuple",
        }.items()
    },
    # folds
    "no fold chosen": ([KFOLD], ["1 problem", "validation.fold  … one of the 5 folds: add -m for a run of each, or choose one: validation.fold=0"]),
    "a fold without folds": (["validation.fold=0", "validation.k=10"], ["2 problems", "validation.fold  … add that, or leave it out", "validation.k  … validation.scheme=kfold: add that"]),
    "a fold beyond the last": (
        [KFOLD, "validation.k=3", "validation.fold=3", "++validation.fraction=0.3"],
        ["2 problems", "validation.fold  … 0 to 2 … validation.k=3 … got 3", "validation.fraction  … validation.scheme=holdout … one of validation.k=3 parts: leave it out"],
    ),
    "a fold before the first": ([KFOLD, "validation.k=1", "validation.fold=-1"], ["2 problems", "validation.fold  … >= 0 or null", "validation.k  … >= 2, got 1"]),
    "more folds than examples": ([*MINE, KFOLD, "validation.fold=0", "data.train_size=4"], ["1 problem", "validation.k  … 5 folds of 4 training examples … empty; make fewer"]),
    "folds of no examples": ([*MINE, "data._target_=mine.FaultyData", "+data.how=empty", KFOLD, "validation.fold=0"], ["data … no examples"]),
    "batch larger than what a fold leaves": (
        [KFOLD, "validation.k=2", "validation.fold=1", "batch_size=2001"], ["1 problem", "batch_size … 2000 training examples left by a fold of validation.k=2 … full"],
    ),
    "one bad fold of several": (["-m", KFOLD, "validation.fold=0,5"], ["1 problem", "validation.fold  … 0 to 4 … in the run validation.fold=5"]),
    # places
    "no folder for the configuration": (["hydra.output_subdir=null"], ["hydra.output_subdir … .hydra"]),
    "one directory for two runs": (["-m", "hydra.sweep.subdir=x", "seed=0,1"], ["hydra.sweep.subdir … number of the trial"]),
    "a directory that holds a run": (["hydra.run.dir=taken"], ["hydra.run.dir … already holds a run … resume=taken"]),
    "a directory that cannot be made": (["hydra.run.dir=file/x"], ["hydra.run.dir … file is a file"]),
    "a sweep's directory that cannot be made": (["-m", "hydra.sweep.dir=file/x", "seed=0,1"], ["hydra.sweep.dir … file"]),
    "nothing to resume": (["resume=nothing"], ["resume … no runs"]),
    # sweeps
    "one bad option of a sweep": (["-m", "optimizer=sgd,adm"], ["optimizer … did you mean adam … optimizer=adm"]),
    "one bad value of a sweep": (["-m", "optimizer.lr=0.1,-1"], ["optimizer.lr … > 0 … optimizer.lr=-1"]),
    "unknown sweeper": (["-m", "hydra/sweeper=tp", "seed=0,1"], ["1 problem", "hydra/sweeper  … no option 'tp'; did you mean tpe?"]),
    "a sweeper that would be refused": (["-m", "hydra/sweeper=bayes", "seed=0,1"], ["no option 'bayes'; there is greedy, grid, qmc, random, tpe\n"]),
    "unknown sweeper of a single run": (["hydra/sweeper=tp"], ["1 problem", "did you mean tpe?"]),
    "two sweepers": (["-m", "hydra/sweeper=tpe,grid", "seed=0,1"], ["1 problem", "hydra/sweeper  … tpe,grid; a search takes one"]),
    "null for a sweeper": (["-m", "hydra/sweeper=null", "seed=0,1"], ["1 problem", "needs the name of an option; there is greedy, grid, qmc, random, tpe"]),
    "a number for a sweeper": (["-m", "hydra.sweeper=3", "seed=0,1"], ["1 problem", "hydra/sweeper  … grid, random, tpe, qmc"]),
    "unknown keys of a search": (
        ["-m", "hydra/swepeer=tpe", "hydra.sweper.trials=4", "optimzer.lr=1", "hydra.sweeper.trails=5", "hydra.sweeper.tpe.n_startup_trals=5",
         "hydra.launcher.workers=2", "hydra.sweeper.n_trials=3,4", "seed=0,1"],
        ["7 problems", "hydra/swepeer  … did you mean hydra/sweeper?", "hydra.sweper  … did you mean sweeper?", "optimzer  … did you mean optimizer?",
         "hydra.sweeper.trails  … did you mean n_trials?", "hydra.sweeper.tpe.n_startup_trals  … did you mean n_startup_trials?",
         "hydra.launcher.workers  … hydra/launcher=pool would have it", "hydra.sweeper.n_trials  … 3,4; a search takes one"],
    ),
    "values of a search": (
        ["-m", "hydra/launcher=pool", "hydra.launcher.workers=abc", "hydra.sweeper.n_trials=abc", "hydra.sweeper.pruner=medain", "hydra.sweeper.tpe.n_startup_trials=-1", "seed=0,1"],
        ["hydra.sweeper.n_trials  … whole number >= 1 or null, got 'abc'", "hydra.sweeper.pruner  … none, median, hyperband, got 'medain'",
         "hydra.sweeper.tpe.n_startup_trials  … must be >= 0, got -1"],
    ),
    "text for the workers": (["-m", "hydra/launcher=pool", "hydra.launcher.workers=abc", "seed=0,1"], ["hydra.launcher.workers  … whole number >= 1 … auto"]),
    "a key of the first option that is searched": (
        ["-m", "hydra/sweeper=tp", "optimizer=momentum,nesterov", "optimizer.momentum=0.8"], ["1 problem", "did you mean tpe?"],
    ),
    "with a pattern and an interval": (
        ["-m", "hydra/sweeper=tp", "optimizer=glob(ada*)", "epochs=int(interval(1,3))", "optimizer.lr=tag(log,interval(1e-3,1))"],
        ["1 problem", "did you mean tpe?"],
    ),
    "with another problem": (["-m", "hydra/sweeper=tp", "optimizer=sgd,adam", "epocs=3"], ["2 problems", "did you mean tpe?", "did you mean epochs?"]),
    "Hydra's other form of -m": (["hydra.mode=MULTIRUN", "hydra.sweeper.n_trials=abc", "seed=0,1"], ["1 problem", "hydra.sweeper.n_trials "]),
    "a launcher with a dot": (["-m", "hydra.launcher=pool", "seed=0,1"], ["1 problem", "hydra.launcher  … hydra/launcher=pool"]),
    "a launcher of a single run": (["hydra/launcher=pool"], ["1 problem", "hydra/launcher  … add -m"]),
    "a sweep's directory of a single run": (["hydra.sweep.dir=x"], ["1 problem", "hydra.sweep.dir  … add -m"]),
    "a search of a single run": (
        ["hydra/sweeper=tpe", "hydra.sweeper.n_trials=5", "--yes", "epochs=0"],
        ["2 problems", "is for a search, like hydra.sweeper.n_trials and --yes: add -m", "epochs "],
    ),
}  # fmt: skip
"""The arguments, and parts of the messages; an ellipsis stands for other words of the same line."""


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, here, capsys):
    (here / "file").touch()
    (here / "taken").mkdir()
    (here / "taken" / "status.json").write_text("{}")
    (here / "broken.py").write_text("1 / 0\n")
    (here / "faulty_rule.py").write_text(
        "from mine import Sign\nclass Rule(Sign):\n    def __init__(self):\n        len(5)\n"
    )
    (here / "dangling.npz").symlink_to("nowhere.npz")
    (here / "empty").mkdir()
    (here / "my.csv").write_text("size,rooms,price\n1,3,2.5\nbig,4,3.5\n" + "3,5,4.5\n" * 9)
    np.savez(here / "my.npz", x=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]]), y=np.array([0, 1, 0]))
    before = read_tree(here)
    overrides, words = CASES[name]
    assert main(["train", *overrides]) == 2
    out, err = capsys.readouterr()
    for part in words:
        assert re.search(".*".join(map(re.escape, part.split(" … "))), err), part
    assert "Traceback" not in out + err
    assert "HYDRA_FULL_ERROR" not in out + err
    assert out == ""
    assert read_tree(here) == before
    assert "HYDRA_FULL_ERROR" not in os.environ
