package riskflow.bench;

import java.nio.ByteBuffer;
import java.util.Arrays;

/**
 * The windows of one entity, packed: for each tile size how many tiles are in use, then number, count and sum of each,
 * oldest first. A window of w ms holds the tiles from floor((t - w) / tile) to floor(t / tile).
 */
final class Windows {
    private static final long HOUR = 3_600_000, DAY = 24 * HOUR;
    private static final long[] TILE = {300_000, HOUR, DAY};
    private static final long[][] LENGTHS = {{HOUR}, {DAY, 7 * DAY}, {30 * DAY}};
    private static final int MOST = 256; // of one size; 169 are in use when no event is late

    private final ByteBuffer packed = ByteBuffer.allocate(3 * (Short.BYTES + MOST * (Long.BYTES + Integer.BYTES + Double.BYTES)));
    private final long[] number = new long[MOST];
    private final int[] count = new int[MOST];
    private final double[] sum = new double[MOST];

    /** Writes eight numbers (count and sum of each window, before the event) into row; returns the state after it. */
    byte[] observe(byte[] state, long atMs, double amount, float[] row, int to) {
        ByteBuffer before = state == null ? null : ByteBuffer.wrap(state);
        packed.clear();
        for (int size = 0; size < TILE.length; size++) {
            long[] lengths = LENGTHS[size];
            long now = Math.floorDiv(atMs, TILE[size]);
            long oldest = Math.floorDiv(atMs - lengths[lengths.length - 1], TILE[size]);
            int tiles = before == null ? 0 : unpack(before, oldest);
            for (long length : lengths) {
                read(tiles, Math.floorDiv(atMs - length, TILE[size]), now, row, to);
                to += 2;
            }
            pack(add(tiles, now, amount));
        }
        return Arrays.copyOf(packed.array(), packed.position());
    }

    /** Tiles that some window still needs. */
    private int unpack(ByteBuffer before, long oldest) {
        int kept = 0;
        for (int left = before.getShort(); left > 0; left--) {
            number[kept] = before.getLong();
            count[kept] = before.getInt();
            sum[kept] = before.getDouble();
            if (number[kept] >= oldest) {
                kept++;
            }
        }
        return kept;
    }

    private void read(int tiles, long first, long now, float[] row, int to) {
        long events = 0;
        double money = 0;
        for (int i = 0; i < tiles; i++) {
            if (first <= number[i] && number[i] <= now) {
                events += count[i];
                money += sum[i];
            }
        }
        row[to] = events;
        row[to + 1] = (float) money;
    }

    /** A late event goes into its own tile. */
    private int add(int tiles, long now, double amount) {
        int at = tiles;
        while (at > 0 && number[at - 1] > now) {
            at--;
        }
        if (at > 0 && number[at - 1] == now) {
            count[at - 1]++;
            sum[at - 1] += amount;
            return tiles;
        }
        System.arraycopy(number, at, number, at + 1, tiles - at);
        System.arraycopy(count, at, count, at + 1, tiles - at);
        System.arraycopy(sum, at, sum, at + 1, tiles - at);
        number[at] = now;
        count[at] = 1;
        sum[at] = amount;
        return tiles + 1;
    }

    private void pack(int tiles) {
        packed.putShort((short) tiles);
        for (int i = 0; i < tiles; i++) {
            packed.putLong(number[i]).putInt(count[i]).putDouble(sum[i]);
        }
    }
}
