using System;
using System.IO;
using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Threading;

namespace Everscene
{
    /// <summary>
    /// The bytes of a ring file, read-only. Two ways to the same bytes: mapped, or read call by call where mapping is not
    /// to be had. Nothing here allocates after the constructor. One thread at a time.
    /// </summary>
    public abstract unsafe class RingMemory : IDisposable
    {
        /// <summary>Bytes in the file.</summary>
        public long Length { get; protected set; }

        /// <summary>An aligned 8-byte word, as it is now; later reads of the caller stay later.</summary>
        public abstract long Word(long offset);

        /// <summary>Copies <paramref name="count"/> bytes.</summary>
        /// <exception cref="RingException">The file has become too short, or cannot be read any more.</exception>
        public abstract void Read(long offset, byte[] target, int count);

        /// <summary>
        /// Copies <paramref name="rows"/> rows of <paramref name="rowBytes"/>, which lie <paramref name="stride"/> apart, so
        /// that they touch in <paramref name="target"/>; the last row first when <paramref name="reversed"/>.
        /// </summary>
        public abstract void ReadRows(long offset, int stride, int rowBytes, int rows, byte* target, bool reversed);

        public abstract void Dispose();

        /// <summary>Maps the file, or opens it for reading if the platform cannot map.</summary>
        /// <exception cref="RingException">It cannot be opened at all.</exception>
        public static RingMemory Open(string path, bool mayMap = true)
        {
            FileStream file = null;
            try
            {
                // A buffer of 1 byte is none: a buffered stream would show old words for ever.
                file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
                return mayMap ? Map(file) : new FileRingMemory(file);
            }
            catch (UnauthorizedAccessException cause)
            {
                throw new RingException("may not read the ring " + path + ": is the sidecar another user's?", cause);
            }
            catch (Exception cause) when (cause is IOException || cause is ArgumentException || cause is NotSupportedException)
            {
                if (file != null) file.Dispose();
                throw new RingException("cannot open the ring " + path + ": " + cause.Message, cause);
            }
        }

        static RingMemory Map(FileStream file)
        {
            try
            {
                return new MappedRingMemory(file);
            }
            catch (Exception cause) when (cause is NotSupportedException || cause is IOException
                                          || cause is NotImplementedException || cause is UnauthorizedAccessException)
            {
                return new FileRingMemory(file);
            }
        }

        protected static void CopyRows(byte* source, int stride, int rowBytes, int rows, byte* target, bool reversed)
        {
            if (stride == rowBytes && !reversed)
            {
                long all = (long)rowBytes * rows;
                Buffer.MemoryCopy(source, target, all, all);
                return;
            }
            for (int row = 0; row < rows; row++)
            {
                int from = reversed ? rows - 1 - row : row;
                Buffer.MemoryCopy(source + (long)from * stride, target + (long)row * rowBytes, rowBytes, rowBytes);
            }
        }
    }

    sealed unsafe class MappedRingMemory : RingMemory
    {
        readonly FileStream file;
        readonly MemoryMappedFile map;
        readonly MemoryMappedViewAccessor view;
        byte* start;

        public MappedRingMemory(FileStream file)
        {
            this.file = file;
            Length = file.Length;
            map = MemoryMappedFile.CreateFromFile(
                file, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, true);
            view = map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
            byte* pointer = null;
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref pointer);
            start = pointer + view.PointerOffset;
        }

        public override long Word(long offset) => Volatile.Read(ref *(long*)(start + offset));

        public override void Read(long offset, byte[] target, int count) =>
            Marshal.Copy((IntPtr)(start + offset), target, 0, count);

        public override void ReadRows(long offset, int stride, int rowBytes, int rows, byte* target, bool reversed) =>
            CopyRows(start + offset, stride, rowBytes, rows, target, reversed);

        public override void Dispose()
        {
            if (start == null) return;
            start = null;
            view.SafeMemoryMappedViewHandle.ReleasePointer();
            view.Dispose();
            map.Dispose();
            file.Dispose();
        }
    }

    sealed unsafe class FileRingMemory : RingMemory
    {
        readonly FileStream file;
        readonly byte[] word = new byte[8];
        byte[] pixels = new byte[0];

        public FileRingMemory(FileStream file)
        {
            this.file = file;
            Length = file.Length;
        }

        public override long Word(long offset)
        {
            Read(offset, word, 8);
            return BitConverter.ToInt64(word, 0);
        }

        public override void Read(long offset, byte[] target, int count)
        {
            try
            {
                file.Seek(offset, SeekOrigin.Begin);
                for (int got = 0; got < count;)
                {
                    int more = file.Read(target, got, count - got);
                    if (more == 0) throw new RingException("the ring " + file.Name + " is shorter than its header says");
                    got += more;
                }
            }
            catch (IOException cause)
            {
                throw new RingException("cannot read the ring " + file.Name + ": " + cause.Message, cause);
            }
        }

        public override void ReadRows(long offset, int stride, int rowBytes, int rows, byte* target, bool reversed)
        {
            int all = stride * rows;
            if (pixels.Length < all) pixels = new byte[all];
            Read(offset, pixels, all);
            fixed (byte* source = pixels) CopyRows(source, stride, rowBytes, rows, target, reversed);
        }

        public override void Dispose() => file.Dispose();
    }
}
