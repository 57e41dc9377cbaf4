"""A loop of steps under a TensorFlow strategy, for hosts whose TPU is served by TensorFlow."""

from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.training.course import Course
from autoprune.training.fit import Loop
from autoprune.training.tensorflow_batches import stream_batches
from autoprune.training.training import Training


class TensorFlowDevices:
    """The cores of a TPU under `TPUStrategy`, or of a rehearsal logical processors under `MirroredStrategy`.

    Weights are on every device; batch normalisation takes its statistics from each device's share of the batch, and
    averages the moving ones. The first of the two strategies has not run yet.

    Args:
        rehearse: number of logical processors; None for a TPU.

    Attributes:
        count: devices that share a batch.
        kind: what they are.
    """

    def __init__(self, rehearse: int | None) -> None:
        if rehearse is None:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
            tf.tpu.experimental.initialize_tpu_system(resolver)
            self._strategy = tf.distribute.TPUStrategy(resolver)
        else:
            (processor,) = tf.config.list_physical_devices("CPU")
            logical = [tf.config.LogicalDeviceConfiguration()] * rehearse
            tf.config.set_logical_device_configuration(processor, logical)
            self._strategy = tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(rehearse)])
        self.count = self._strategy.num_replicas_in_sync
        self.kind = "TPU core" if rehearse is None else "cpu"

    def scope(self) -> AbstractContextManager[Any]:
        """The strategy's."""
        return self._strategy.scope()

    def loop(self, steps_per_execution: int) -> Loop:
        """Runs the steps on all devices."""
        return StrategyLoop(self._strategy, steps_per_execution)


class StrategyLoop:
    """Runs the steps of a training: batches of one shape, each device a share of every batch, gradients summed.

    Args:
        strategy: in whose scope the training's model was made, and the loop is called.
        steps_per_execution: steps that are compiled into one call.
    """

    def __init__(self, strategy: tf.distribute.Strategy, steps_per_execution: int) -> None:
        self._strategy = strategy
        self._at_once = steps_per_execution

    def __call__(self, training: Training, course: Course) -> None:
        """Train until the course ends."""
        batches, reward = training.training_batches(whole=True), training.reward_batches(padded=True)
        optimizer = training.optimizer(batches.steps)
        optimizer.build(course.network.trainable_variables)
        with safe_convolutions(training.model):
            course.begin(optimizer, batches)
            train = self._make_training_function(training, course.network, optimizer)
            judge = self._make_accuracy_function(training, course.network)
            while not course.ended:
                first = course.position.step
                batches.begin(course.position.epoch, first)
                iterator, total = iter(self._distribute(batches)), 0.0
                while course.position.step < course.steps and course.failure is None:
                    done = course.position.step
                    count = min(self._at_once, course.steps - done)
                    total += float(train(iterator, tf.constant(count)))
                    course.step_done(done + count, {"loss": total / (done + count - first)})
                if course.failure is None:
                    course.epoch_done({"val_accuracy": judge(self._distribute(reward))})

    def _make_training_function(self, training: Training, network: Any, optimizer: Any) -> Any:
        """A compiled function of an iterator and a number of steps, which gives the sum of their losses."""
        loss_of, strategy = training.loss(), self._strategy

        def step(images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                outputs = network(images, training=True)
                # Every device has as many images: the mean over all is the mean of the means. Called as a whole, a loss
                # of Keras's would divide by the number of devices itself.
                loss = tf.reduce_mean(loss_of.call(targets, outputs)) + sum(network.losses)
                shared = loss / strategy.num_replicas_in_sync
            gradients = tape.gradient(shared, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
            return shared

        @tf.function
        def train(iterator: Any, count: tf.Tensor) -> tf.Tensor:
            total = 0.0
            for _ in tf.range(count):
                losses = strategy.run(step, args=next(iterator))
                total += strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
            return total

        return train

    def _make_accuracy_function(self, training: Training, network: Any) -> Any:
        """A function of distributed batches, which gives the accuracy."""
        metric, strategy = training.metric(), self._strategy

        def step(images: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> None:
            metric.update_state(targets, network(images, training=False), sample_weight=weights)

        judge_batch = tf.function(lambda batch: strategy.run(step, args=batch))

        def judge(dataset: Any) -> float:
            metric.reset_state()
            for batch in dataset:
                judge_batch(batch)
            return float(metric.result())

        return judge

    def _distribute(self, batches: Any) -> Any:
        """A data set of batches, each to be divided among the devices."""
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return self._strategy.experimental_distribute_dataset(stream_batches(batches, whole=True).with_options(options))
