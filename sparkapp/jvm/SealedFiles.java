package cleanroom;

import java.io.EOFException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;

/**
 * A read-only Hadoop file system of the objects of a run, so that Spark's own readers read sealed objects.
 *
 * It holds no key and opens no object. sparkapp/object_server.py does, in a Python process of the same pod, and sends the
 * requested plaintext through a Unix domain socket, whose path is the system property "cleanroom.objects". The last part
 * of a file's path is its plaintext size.
 *
 * The language is Java 8 without lambdas, because Spark's Janino compiles this file (sparkapp/jvm_build.py).
 */
public final class SealedFiles extends FileSystem {
    private URI uri;

    public void initialize(URI name, Configuration conf) throws IOException {
        super.initialize(name, conf);
        uri = URI.create(name.getScheme() + "://" + name.getAuthority());
    }

    public String getScheme() {
        return "cleanroom";
    }

    public URI getUri() {
        return uri;
    }

    public FileStatus getFileStatus(Path path) throws IOException {
        String name = path.getName();
        int dot = name.indexOf('.');
        if (dot < 0) {
            throw new FileNotFoundException("no such object");
        }
        return new FileStatus(Long.parseLong(name.substring(0, dot)), false, 1, 128L << 20, 0, makeQualified(path));
    }

    public FileStatus[] listStatus(Path path) throws IOException {
        return new FileStatus[] {getFileStatus(path)};
    }

    public FSDataInputStream open(Path path, int bufferSize) throws IOException {
        return new FSDataInputStream(new Input(path.toUri().getPath(), getFileStatus(path).getLen()));
    }

    public FSDataOutputStream create(
            Path path, FsPermission permission, boolean overwrite, int bufferSize, short replication, long blockSize, Progressable progress)
            throws IOException {
        throw readOnly();
    }

    public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) throws IOException {
        throw readOnly();
    }

    public boolean rename(Path from, Path to) throws IOException {
        throw readOnly();
    }

    public boolean delete(Path path, boolean recursive) throws IOException {
        throw readOnly();
    }

    public boolean mkdirs(Path path, FsPermission permission) throws IOException {
        throw readOnly();
    }

    public void setWorkingDirectory(Path path) {
    }

    public Path getWorkingDirectory() {
        return new Path(uri.toString() + "/");
    }

    private static IOException readOnly() {
        return new IOException("the objects of a run are read-only");
    }

    /**
     * One open object: a connection to the server, and a buffer for small reads.
     *
     * A request is the offset (8 bytes), the length (4), the length of the path (4) and the path. The answer is the number
     * of bytes (4) and the bytes, or the negative length of an error text and the text.
     */
    private static final class Input extends FSInputStream {
        private static final int AHEAD = 1 << 16;
        /** Readers repeat a short read. The server holds the plaintext of one request in memory. */
        private static final int MOST = 8 << 20;
        private final byte[] path;
        private final long size;
        private final SocketChannel channel;
        private byte[] ahead = new byte[0];
        private long aheadStart;
        private long position;

        Input(String path, long size) throws IOException {
            this.path = path.getBytes(StandardCharsets.UTF_8);
            this.size = size;
            this.channel = SocketChannel.open(UnixDomainSocketAddress.of(System.getProperty("cleanroom.objects")));
        }

        public synchronized int read(long from, byte[] target, int start, int wanted) throws IOException {
            if (wanted == 0) {
                return 0;
            }
            if (from < 0 || from >= size) {
                return -1;
            }
            int count = (int) Math.min((long) Math.min(wanted, MOST), size - from);
            boolean held = from >= aheadStart && from + count <= aheadStart + ahead.length;
            if (count >= AHEAD && !held) {
                fetch(from, target, start, count);
                return count;
            }
            if (!held) {
                byte[] fetched = new byte[(int) Math.min((long) AHEAD, size - from)];
                fetch(from, fetched, 0, fetched.length);
                ahead = fetched;
                aheadStart = from;
            }
            System.arraycopy(ahead, (int) (from - aheadStart), target, start, count);
            return count;
        }

        public synchronized int read(byte[] target, int start, int wanted) throws IOException {
            int count = read(position, target, start, wanted);
            position += Math.max(count, 0);
            return count;
        }

        public synchronized int read() throws IOException {
            byte[] one = new byte[1];
            return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
        }

        private void fetch(long from, byte[] target, int start, int count) throws IOException {
            ByteBuffer request = ByteBuffer.allocate(16 + path.length);
            request.putLong(from).putInt(count).putInt(path.length).put(path);
            request.flip();
            while (request.hasRemaining()) {
                channel.write(request);
            }
            ByteBuffer head = ByteBuffer.allocate(4);
            fill(head);
            head.flip();
            int found = head.getInt();
            if (found < 0) {
                ByteBuffer text = ByteBuffer.allocate(-found);
                fill(text);
                throw new IOException(new String(text.array(), StandardCharsets.UTF_8));
            }
            if (found != count) {
                throw new EOFException("the object server returned another number of bytes");
            }
            fill(ByteBuffer.wrap(target, start, count));
        }

        private void fill(ByteBuffer buffer) throws IOException {
            while (buffer.hasRemaining()) {
                if (channel.read(buffer) < 0) {
                    throw new EOFException("the object server has ended");
                }
            }
        }

        public synchronized void seek(long offset) throws IOException {
            if (offset < 0 || offset > size) {
                throw new EOFException("an offset outside of the object");
            }
            position = offset;
        }

        public synchronized long getPos() {
            return position;
        }

        public boolean seekToNewSource(long offset) {
            return false;
        }

        public synchronized int available() {
            return (int) Math.min((long) Integer.MAX_VALUE, size - position);
        }

        public void close() throws IOException {
            channel.close();
        }
    }
}
