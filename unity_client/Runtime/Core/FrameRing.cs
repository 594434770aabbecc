using System;
using System.Text;
using System.Threading;

namespace Everscene
{
    public enum RingState { Starting = 0, Live = 1, Closed = 2, Replaced = 3, Failed = 4 }

    /// <summary>
    /// A reader of the frame ring of docs/protocol.md §7: one file, N slots, written by the server without regard for us.
    /// Each slot has a lock word: <c>2·s − 1</c> while frame s is being written, <c>2·s</c> when it is whole. We read the
    /// word, copy, and read it again: the same both times means that the copy is whole, else it is thrown away.
    /// One thread at a time; nothing is allocated per frame.
    /// </summary>
    public sealed unsafe class FrameRing : IDisposable
    {
        const int HeaderBytes = 4096;
        const int DescriptorBytes = 128;
        const int LatestSeqAt = 0x080;
        const int HeartbeatAt = 0x088;
        const int StateAt = 0x090;
        const uint Rgba = 0x41424752;
        const uint ByteOrderProbe = 0x01020304;

        readonly RingMemory memory;
        readonly byte[] descriptor = new byte[DescriptorBytes];
        readonly uint descriptorOffset;
        readonly uint descriptorStride;
        readonly uint dataOffset;
        readonly long slotStride;
        readonly long slotCapacity;

        public int SlotCount { get; }
        public long RingId { get; }
        public long Epoch { get; }
        public long FileBytes { get; }
        public uint FpsNumerator { get; }
        public uint FpsDenominator { get; }
        public bool IsMapped => memory is MappedRingMemory;

        /// <summary>Checks the header of a ring and takes the memory over.</summary>
        /// <param name="ringId">What the ring must bear, from `welcome`; 0 = any.</param>
        /// <exception cref="RingException">It is no ring, another one, or of another major version.</exception>
        public FrameRing(RingMemory memory, long ringId = 0)
        {
            this.memory = memory;
            if (memory.Length < HeaderBytes) throw new RingException("the ring has no header");
            var header = new byte[HeaderBytes];
            memory.Read(0, header, HeaderBytes);
            if (Encoding.ASCII.GetString(header, 0, 8) != "EVERRING") throw new RingException("the file is no ring");
            uint version = BitConverter.ToUInt32(header, 0x008);
            if (version >> 16 != 1)
                throw new RingException("the ring is of version " + (version >> 16) + "." + (version & 0xFFFF) + ", we read 1");
            if (BitConverter.ToUInt32(header, 0x058) != ByteOrderProbe)
                throw new RingException("the ring is of another byte order");
            FileBytes = BitConverter.ToInt64(header, 0x010);
            SlotCount = BitConverter.ToInt32(header, 0x018);
            descriptorOffset = BitConverter.ToUInt32(header, 0x01C);
            descriptorStride = BitConverter.ToUInt32(header, 0x020);
            dataOffset = BitConverter.ToUInt32(header, 0x024);
            slotStride = BitConverter.ToInt64(header, 0x028);
            slotCapacity = BitConverter.ToInt64(header, 0x030);
            RingId = BitConverter.ToInt64(header, 0x038);
            Epoch = BitConverter.ToInt64(header, 0x060);
            FpsNumerator = BitConverter.ToUInt32(header, 0x068);
            FpsDenominator = BitConverter.ToUInt32(header, 0x06C);
            if (ringId != 0 && RingId != ringId) throw new RingException("the ring is another one than the server named");
            CheckLayout();
        }

        /// <summary>Opens the ring at <paramref name="path"/>.</summary>
        public static FrameRing Open(string path, long ringId = 0, bool mayMap = true)
        {
            RingMemory memory = RingMemory.Open(path, mayMap);
            try
            {
                return new FrameRing(memory, ringId);
            }
            catch (RingException)
            {
                memory.Dispose();
                throw;
            }
        }

        /// <summary>Frame number of the latest whole frame; 0 = none yet.</summary>
        public long LatestSeq => memory.Word(LatestSeqAt);

        /// <summary>Renewed by the server at least twice a second; its clock, ns.</summary>
        public long HeartbeatNs => memory.Word(HeartbeatAt);

        public RingState State => (RingState)(memory.Word(StateAt) & 0xFFFFFFFF);

        /// <summary>Reads what is known of frame <paramref name="seq"/>; false when its slot holds another by now.</summary>
        /// <exception cref="RingException">The descriptor breaks the protocol.</exception>
        public bool TryDescribe(long seq, ref FrameInfo info)
        {
            long at = descriptorOffset + seq % SlotCount * descriptorStride;
            if (memory.Word(at) != 2 * seq) return false;
            memory.Read(at, descriptor, DescriptorBytes);
            Thread.MemoryBarrier();
            if (memory.Word(at) != 2 * seq) return false;

            info.Number = BitConverter.ToInt64(descriptor, 8);
            info.PtsNs = BitConverter.ToInt64(descriptor, 16);
            info.CommitNs = BitConverter.ToInt64(descriptor, 24);
            info.Width = BitConverter.ToInt32(descriptor, 32);
            info.Height = BitConverter.ToInt32(descriptor, 36);
            info.Stride = BitConverter.ToInt32(descriptor, 40);
            info.Flags = (FrameFlags)BitConverter.ToInt32(descriptor, 56);
            info.Epoch = BitConverter.ToInt64(descriptor, 64);
            info.Order = BitConverter.ToInt64(descriptor, 72);
            info.Index = BitConverter.ToInt32(descriptor, 84);
            info.Chunk = BitConverter.ToInt64(descriptor, 88);
            info.Transport = Transport.Ring;
            info.Prompt = null;
            info.Stamps = new FrameStamps();
            CheckPicture(ref info, BitConverter.ToUInt32(descriptor, 48));
            return true;
        }

        /// <summary>
        /// Copies the pixels as RGBA8 rows without gaps, <see cref="FrameInfo.RgbaBytes"/> in all.
        /// </summary>
        /// <param name="bottomFirst">The order of rows wanted in <paramref name="target"/>.</param>
        /// <returns>False when the server wrote into the slot meanwhile: the target then holds a torn picture.</returns>
        public bool TryCopy(ref FrameInfo info, byte* target, bool bottomFirst)
        {
            long slot = info.Number % SlotCount;
            long lockAt = descriptorOffset + slot * descriptorStride;
            bool isBottomUp = (info.Flags & FrameFlags.BottomUp) != 0;
            if (memory.Word(lockAt) != 2 * info.Number) return false;
            memory.ReadRows(
                dataOffset + slot * slotStride, info.Stride, info.Width * 4, info.Height, target, isBottomUp != bottomFirst);
            Thread.MemoryBarrier(); // the copy must not be moved past the second look at the lock
            return memory.Word(lockAt) == 2 * info.Number;
        }

        public void Dispose() => memory.Dispose();

        // The limits are those of the file, so that no descriptor can make us read outside of it.
        void CheckLayout()
        {
            bool good = SlotCount >= 3 && SlotCount <= 28 && descriptorStride >= DescriptorBytes
                && descriptorOffset % 8 == 0 && descriptorStride % 8 == 0
                && descriptorOffset >= HeaderBytes / 8 && (long)descriptorOffset + (long)SlotCount * descriptorStride <= dataOffset
                && slotCapacity > 0 && slotCapacity <= slotStride && slotStride <= int.MaxValue
                && dataOffset + SlotCount * slotStride <= FileBytes && FileBytes <= memory.Length;
            if (!good) throw new RingException("the ring's header contradicts itself or the file's size");
        }

        void CheckPicture(ref FrameInfo info, uint fourcc)
        {
            bool good = info.Width > 0 && info.Height > 0 && info.Width <= 65536 && info.Stride >= info.Width * 4
                && (long)info.Stride * info.Height <= slotCapacity;
            if (!good)
                throw new RingException(
                    "a frame of " + info.Width + "×" + info.Height + " with rows of " + info.Stride + " bytes does not fit its slot");
            if (fourcc != Rgba) throw new RingException("a frame of the unknown kind 0x" + fourcc.ToString("X8"));
        }
    }
}
