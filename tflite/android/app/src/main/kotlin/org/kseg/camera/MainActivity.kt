package org.kseg.camera

import android.Manifest
import android.graphics.Bitmap
import android.graphics.Color
import android.graphics.Matrix
import android.os.Bundle
import android.os.SystemClock
import android.view.Gravity
import android.widget.FrameLayout
import android.widget.ImageView
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.core.content.ContextCompat
import com.google.ai.edge.litert.Accelerator
import java.util.Locale
import java.util.concurrent.Executors

/**
 * The camera's frames with the network's answer over them.
 *
 * What is on the screen is the very frame that was segmented, so that the two cannot be shifted
 * against each other. Touch the screen to compare the GPU with the CPU on the next frame.
 */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private lateinit var picture: ImageView
    private lateinit var facts: TextView

    // Of the worker's thread alone.
    private var segmenter: Segmenter? = null
    private var device = ""
    private var milliseconds = 0.0
    private var comparison = ""

    @Volatile private var compareNext = false

    private val permission =
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
            if (granted) startCamera() else facts.setText(R.string.no_camera)
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        picture = ImageView(this).apply { scaleType = ImageView.ScaleType.FIT_CENTER }
        facts = TextView(this).apply {
            setTextColor(Color.WHITE)
            setBackgroundColor(Color.argb(0x99, 0, 0, 0))
            setPadding(24, 16, 24, 16)
        }
        val page = FrameLayout(this).apply {
            fitsSystemWindows = true
            keepScreenOn = true
            addView(picture)
            addView(facts, FrameLayout.LayoutParams(
                FrameLayout.LayoutParams.MATCH_PARENT,
                FrameLayout.LayoutParams.WRAP_CONTENT,
                Gravity.BOTTOM))
            setOnClickListener { compareNext = true }
        }
        setContentView(page)
        permission.launch(Manifest.permission.CAMERA)
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { segmenter?.close() }
        worker.shutdown()
    }

    private fun startCamera() {
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({
            val frames = ImageAnalysis.Builder()
                .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                .build()
            frames.setAnalyzer(worker) { proxy -> proxy.use { show(upright(it)) } }
            provider.get().bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, frames)
        }, ContextCompat.getMainExecutor(this))
    }

    private fun show(frame: Bitmap) {
        val network = segmenter ?: open().also { segmenter = it }
        val begin = SystemClock.elapsedRealtimeNanos()
        val mask = network.segment(frame)
        val now = (SystemClock.elapsedRealtimeNanos() - begin) / 1e6
        milliseconds = if (milliseconds == 0.0) now else 0.9 * milliseconds + 0.1 * now
        if (compareNext) {
            compareNext = false
            comparison = compare(frame, mask)
        }
        val shown = overlay(frame, mask)
        val line = String.format(Locale.ROOT, "%s, %.1f ms%s\n", device, milliseconds, comparison)
        val names = legend(mask)
        runOnUiThread {
            picture.setImageBitmap(shown)
            facts.text = line
            facts.append(names)
        }
    }

    /** On the GPU, or on the CPU where there is none that takes the file. */
    private fun open(): Segmenter =
        try {
            // With both in one call a missing accelerator would go unnoticed.
            Segmenter(this, Accelerator.GPU).also { device = "GPU" }
        } catch (error: Exception) {
            Segmenter(this, Accelerator.CPU).also { device = "CPU (GPU: ${error.message})" }
        }

    /** The share of pixels with the same channel on the CPU, as a line. */
    private fun compare(frame: Bitmap, mask: ByteArray): String {
        val other = Segmenter(this, Accelerator.CPU).use { it.segment(frame) }
        val same = mask.indices.count { mask[it] == other[it] }
        return String.format(Locale.ROOT, "\nas on the CPU: %.3f %% of the pixels", 100.0 * same / mask.size)
    }

    /** The frame as the user sees it, whichever way the phone is held. */
    private fun upright(proxy: ImageProxy): Bitmap {
        val turn = Matrix().apply { postRotate(proxy.imageInfo.rotationDegrees.toFloat()) }
        val frame = proxy.toBitmap()
        return Bitmap.createBitmap(frame, 0, 0, frame.width, frame.height, turn, true)
    }
}
