// What the app of `kseg android` uses of Android, CameraX and LiteRT, as their documentation has it,
// to compile against and to run without a phone. One file for each line that begins with "package".
package android
object Manifest { object permission { const val CAMERA = "android.permission.CAMERA" } }

package android.content
open class Context { val assets = android.content.res.AssetManager() }

package android.content.res
class AssetManager

package android.graphics
class Bitmap(val width: Int, val height: Int, val values: IntArray) {
    enum class Config { ARGB_8888 }
    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        values.copyInto(pixels)
    }
    companion object {
        @JvmStatic fun createScaledBitmap(src: Bitmap, width: Int, height: Int, filter: Boolean): Bitmap {
            check(src.width == width && src.height == height)
            return src
        }
        @JvmStatic fun createBitmap(width: Int, height: Int, config: Config) =
            Bitmap(width, height, IntArray(width * height))
        @JvmStatic fun createBitmap(colors: IntArray, width: Int, height: Int, config: Config) =
            Bitmap(width, height, colors)
        @JvmStatic fun createBitmap(
            source: Bitmap, x: Int, y: Int, width: Int, height: Int, m: Matrix?, filter: Boolean) = source
    }
}
class Canvas(bitmap: Bitmap) {
    fun drawBitmap(bitmap: Bitmap, left: Float, top: Float, paint: Paint?) {}
    fun drawBitmap(bitmap: Bitmap, src: Rect?, dst: Rect, paint: Paint?) {}
}
object Color {
    const val WHITE = -1
    const val BLACK = -0x1000000
    @JvmStatic fun argb(alpha: Int, red: Int, green: Int, blue: Int) = 0
}
class Matrix { fun postRotate(degrees: Float) = true }
class Paint { var isFilterBitmap = true }
class Rect(left: Int, top: Int, right: Int, bottom: Int)

package android.os
class Bundle
object SystemClock { @JvmStatic fun elapsedRealtimeNanos() = System.nanoTime() }

package android.text
interface Spanned { companion object { const val SPAN_EXCLUSIVE_EXCLUSIVE = 33 } }
class SpannableStringBuilder : CharSequence {
    private val text = StringBuilder()
    override val length get() = text.length
    override fun get(index: Int) = text[index]
    override fun subSequence(startIndex: Int, endIndex: Int) = text.subSequence(startIndex, endIndex)
    override fun toString() = text.toString()
    fun append(text: CharSequence) = apply { this.text.append(text) }
    fun setSpan(what: Any, start: Int, end: Int, flags: Int) {}
}

package android.text.style
class ForegroundColorSpan(color: Int)

package android.view
open class View {
    var fitsSystemWindows = false
    var keepScreenOn = false
    fun setBackgroundColor(color: Int) {}
    fun setPadding(left: Int, top: Int, right: Int, bottom: Int) {}
    fun setOnClickListener(listener: ((View) -> Unit)?) {}
}
open class ViewGroup : View() {
    open class LayoutParams(width: Int, height: Int) {
        companion object {
            const val MATCH_PARENT = -1
            const val WRAP_CONTENT = -2
        }
    }
    fun addView(child: View) {}
    fun addView(child: View, params: LayoutParams) {}
}
object Gravity { const val BOTTOM = 80 }

package android.widget
import android.graphics.Bitmap
import android.view.View
import android.view.ViewGroup
class FrameLayout(context: android.content.Context) : ViewGroup() {
    class LayoutParams(width: Int, height: Int, gravity: Int) : ViewGroup.LayoutParams(width, height) {
        companion object {
            const val MATCH_PARENT = -1
            const val WRAP_CONTENT = -2
        }
    }
}
class ImageView(context: android.content.Context) : View() {
    enum class ScaleType { FIT_CENTER }
    var scaleType = ScaleType.FIT_CENTER
    fun setImageBitmap(bitmap: Bitmap?) {}
}
class TextView(context: android.content.Context) : View() {
    var text: CharSequence? = null
    fun setText(resid: Int) {}
    fun setTextColor(color: Int) {}
    fun append(text: CharSequence) {}
}

package androidx.activity
import androidx.activity.result.ActivityResultLauncher
import androidx.activity.result.contract.ActivityResultContract
open class ComponentActivity : android.content.Context(), androidx.lifecycle.LifecycleOwner {
    protected open fun onCreate(savedInstanceState: android.os.Bundle?) {}
    protected open fun onDestroy() {}
    fun setContentView(view: android.view.View) {}
    fun runOnUiThread(action: Runnable) = action.run()
    fun <I, O> registerForActivityResult(
        contract: ActivityResultContract<I, O>, callback: (O) -> Unit) = ActivityResultLauncher<I>()
}

package androidx.activity.result
class ActivityResultLauncher<I> { fun launch(input: I) {} }

package androidx.activity.result.contract
open class ActivityResultContract<I, O>
object ActivityResultContracts { class RequestPermission : ActivityResultContract<String, Boolean>() }

package androidx.camera.core
import java.util.concurrent.Executor
class CameraSelector { companion object { @JvmField val DEFAULT_BACK_CAMERA = CameraSelector() } }
interface ImageInfo { val rotationDegrees: Int }
interface ImageProxy : AutoCloseable {
    val imageInfo: ImageInfo
    fun toBitmap(): android.graphics.Bitmap
    override fun close()
}
open class UseCase
class ImageAnalysis : UseCase() {
    fun interface Analyzer { fun analyze(image: ImageProxy) }
    class Builder {
        fun setBackpressureStrategy(strategy: Int) = this
        fun setOutputImageFormat(format: Int) = this
        fun build() = ImageAnalysis()
    }
    fun setAnalyzer(executor: Executor, analyzer: Analyzer) {}
    companion object {
        const val STRATEGY_KEEP_ONLY_LATEST = 0
        const val OUTPUT_IMAGE_FORMAT_RGBA_8888 = 2
    }
}

package androidx.camera.lifecycle
import androidx.camera.core.CameraSelector
import androidx.camera.core.UseCase
import com.google.common.util.concurrent.ListenableFuture
class ProcessCameraProvider {
    fun bindToLifecycle(owner: androidx.lifecycle.LifecycleOwner, selector: CameraSelector, vararg cases: UseCase) {}
    companion object {
        @JvmStatic fun getInstance(context: android.content.Context): ListenableFuture<ProcessCameraProvider> = TODO()
    }
}

package androidx.core.content
object ContextCompat {
    @JvmStatic fun getMainExecutor(context: android.content.Context): java.util.concurrent.Executor = TODO()
}

package androidx.lifecycle
interface LifecycleOwner

package com.google.common.util.concurrent
interface ListenableFuture<V> : java.util.concurrent.Future<V> {
    fun addListener(listener: Runnable, executor: java.util.concurrent.Executor)
}

package com.google.ai.edge.litert
import android.content.res.AssetManager
enum class Accelerator { CPU, GPU, NPU }
class TensorBuffer : AutoCloseable {
    private var floats = FloatArray(0)
    private var bytes = ByteArray(0)
    fun writeFloat(data: FloatArray) { floats = data.copyOf() }
    fun writeInt8(data: ByteArray) { bytes = data.copyOf() }
    fun readFloat() = floats
    fun readInt8() = bytes
    override fun close() {}
}
// Its network is the identity: the logits of three classes are R, G and B.
class CompiledModel : AutoCloseable {
    class Options(vararg accelerators: Accelerator)
    private val buffers = listOf(TensorBuffer())
    fun createInputBuffers(): List<TensorBuffer> = buffers
    fun createOutputBuffers(): List<TensorBuffer> = buffers
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) {}
    override fun close() {}
    companion object {
        @JvmStatic fun create(assets: AssetManager, name: String, options: Options) = CompiledModel()
    }
}

package org.kseg.camera
object R { object string { const val no_camera = 1 } }
