package org.kseg.camera

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Rect
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.ForegroundColorSpan

// Classes are not mixed where the mask is enlarged.
private val nearest = Paint().apply { isFilterBitmap = false }

/** The frame with its mask over it, as a bitmap of the frame's size. */
fun overlay(frame: Bitmap, mask: ByteArray): Bitmap {
    val colors = IntArray(mask.size) { Model.COLORS[mask[it].toInt() and 0xFF] }
    val drawn = Bitmap.createBitmap(
        colors, Model.MASK_WIDTH, Model.MASK_HEIGHT, Bitmap.Config.ARGB_8888)
    val result = Bitmap.createBitmap(frame.width, frame.height, Bitmap.Config.ARGB_8888)
    val canvas = Canvas(result)
    canvas.drawBitmap(frame, 0f, 0f, null)
    canvas.drawBitmap(drawn, null, Rect(0, 0, frame.width, frame.height), nearest)
    return result
}

/** Names of the channels that have a hundredth of the mask or more, in their colours. */
fun legend(mask: ByteArray): CharSequence {
    val counts = IntArray(Model.NAMES.size)
    for (channel in mask) counts[channel.toInt() and 0xFF]++
    val text = SpannableStringBuilder()
    for (channel in counts.indices.filter { 100 * counts[it] >= mask.size }) {
        val begin = text.length
        text.append("\u25A0 ")
        val color = ForegroundColorSpan(Model.COLORS[channel] or Color.BLACK)
        text.setSpan(color, begin, text.length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
        text.append(Model.NAMES[channel]).append("   ")
    }
    return text
}
