package org.kseg.camera

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/**
 * Runs the file on one accelerator.
 *
 * Create, use and close it on one thread: a GPU's context belongs to a thread.
 */
class Segmenter(context: Context, accelerator: Accelerator) : AutoCloseable {
    private val model =
        CompiledModel.create(context.assets, Model.FILE, CompiledModel.Options(accelerator))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()
    private val pixels = IntArray(Model.HEIGHT * Model.WIDTH)
    private val floats = FloatArray(if (Model.TAKES_BYTES) 0 else 3 * pixels.size)
    private val bytes = ByteArray(if (Model.TAKES_BYTES) 3 * pixels.size else 0)

    /**
     * The channel of every pixel of the mask (Model.MASK_HEIGHT x Model.MASK_WIDTH), row by row.
     *
     * @param image of any size; it is stretched to the file's.
     */
    fun segment(image: Bitmap): ByteArray {
        Bitmap.createScaledBitmap(image, Model.WIDTH, Model.HEIGHT, true)
            .getPixels(pixels, 0, Model.WIDTH, 0, 0, Model.WIDTH, Model.HEIGHT)
        // RGB 0..255: the file normalises by itself.
        if (Model.TAKES_BYTES) {
            for (i in pixels.indices) {
                bytes[3 * i] = (pixels[i] shr 16).toByte()
                bytes[3 * i + 1] = (pixels[i] shr 8).toByte()
                bytes[3 * i + 2] = pixels[i].toByte()
            }
            inputs[0].writeInt8(bytes)
        } else {
            for (i in pixels.indices) {
                floats[3 * i] = (pixels[i] shr 16 and 0xFF).toFloat()
                floats[3 * i + 1] = (pixels[i] shr 8 and 0xFF).toFloat()
                floats[3 * i + 2] = (pixels[i] and 0xFF).toFloat()
            }
            inputs[0].writeFloat(floats)
        }
        model.run(inputs, outputs)
        return when (Model.OUTPUT) {
            Output.CHANNELS -> outputs[0].readInt8()
            Output.FLOAT_LOGITS -> outputs[0].readFloat().let { argmax(it.size) { i -> it[i] } }
            // One scale for all channels: the largest integer is the largest logit.
            Output.INT8_LOGITS -> outputs[0].readInt8().let { argmax(it.size) { i -> it[i].toFloat() } }
        }
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }
}

/** The first largest channel of every pixel of [size] values, channels last. */
inline fun argmax(size: Int, value: (Int) -> Float): ByteArray {
    val channels = Model.NAMES.size
    val result = ByteArray(size / channels)
    for (pixel in result.indices) {
        val first = pixel * channels
        var best = 0
        for (channel in 1 until channels) {
            if (value(first + channel) > value(first + best)) best = channel
        }
        result[pixel] = best.toByte()
    }
    return result
}
