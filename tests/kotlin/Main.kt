package org.kseg.camera

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator

/** The mask and the legend of a picture, one ARGB integer a line of the input. */
fun main() {
    val pixels = generateSequence(::readlnOrNull).map { it.toLong().toInt() }.toList().toIntArray()
    val frame = Bitmap(Model.WIDTH, Model.HEIGHT, pixels)
    val mask = Segmenter(Context(), Accelerator.GPU).use { it.segment(frame) }
    println(mask.joinToString(" "))
    println(legend(mask))
}
