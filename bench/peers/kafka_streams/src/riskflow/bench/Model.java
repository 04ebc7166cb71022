package riskflow.bench;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Map;
import java.util.Set;

/** The ONNX model on one thread, one event at a time, with an input buffer that is used again. */
final class Model implements AutoCloseable {
    private static final OrtEnvironment ENVIRONMENT = OrtEnvironment.getEnvironment();
    private static final Set<String> PROBABILITIES = Set.of("probabilities");

    private final OrtSession session;
    private final FloatBuffer input;
    private final long[] shape;

    Model(String path, int inputs) {
        try {
            OrtSession.SessionOptions options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(1);
            options.setInterOpNumThreads(1);
            session = ENVIRONMENT.createSession(path, options);
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
        input = ByteBuffer.allocateDirect(inputs * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
        shape = new long[] {1, inputs};
    }

    float score(float[] row) {
        input.clear();
        input.put(row).flip();
        try (OnnxTensor tensor = OnnxTensor.createTensor(ENVIRONMENT, input, shape);
                OrtSession.Result result = session.run(Map.of("X", tensor), PROBABILITIES)) {
            return ((OnnxTensor) result.get(0)).getFloatBuffer().get(1);
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public void close() {
        try {
            session.close();
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }
}
