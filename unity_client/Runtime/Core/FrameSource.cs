using System;
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Everscene
{
    public enum Playback
    {
        /// <summary>Always the latest frame: least delay, frames are passed over when the game is slower than the stream.</summary>
        Newest,
        /// <summary>Every frame in its turn, as long as the game keeps up.</summary>
        InOrder,
    }

    /// <summary>
    /// The frames as the game takes them, wherever they come from. Ask with <see cref="TryNext"/>, make room for the
    /// size it tells, then <see cref="TryCopy"/>. Both from one thread; neither waits, neither allocates.
    /// </summary>
    public sealed unsafe class FrameSource : IDisposable
    {
        const int NoticesKept = 32;
        const int Attempts = 3;
        const double StaleSeconds = 3;

        readonly object gate = new object(); // the ring: the network threads swap it, the game's thread reads it
        readonly object noticeGate = new object();
        readonly FrameInfo[] notices = new FrameInfo[NoticesKept];
        readonly Stopwatch sinceHeartbeat = new Stopwatch();
        FrameInfo lastNotice;
        FrameRing ring;
        long ringToken;
        long heartbeat;
        long last;
        long lastEpoch;
        bool inOrder;
        bool needsHello;

        internal InlineFrames Inline { get; } = new InlineFrames();

        /// <summary>Frames copied out.</summary>
        public long Copied { get; private set; }
        /// <summary>Newest: frames passed over for a later one.</summary>
        public long Skipped { get; private set; }
        /// <summary>In order: frames lost because the game fell behind by more than the ring holds.</summary>
        public long Lost { get; private set; }
        /// <summary>Copies thrown away because the server wrote into the slot meanwhile.</summary>
        public long Torn { get; private set; }
        /// <summary>Number of the latest frame copied; 0 = none of this epoch.</summary>
        public long Latest => last;

        /// <summary>Whether a ring is open, and mapped rather than read.</summary>
        public bool HasRing { get { lock (gate) return ring != null; } }
        public bool IsMapped { get { lock (gate) return ring != null && ring.IsMapped; } }

        /// <summary>Puts another ring in place of the present one, or none; the old one is closed. From any thread.</summary>
        internal void SetRing(FrameRing next)
        {
            FrameRing old;
            lock (gate)
            {
                old = ring;
                ring = next;
                ringToken++;
                if (next != null)
                {
                    heartbeat = long.MinValue; // the first one that is seen is new
                    sinceHeartbeat.Reset();
                    sinceHeartbeat.Start();
                }
            }
            // Outside of the lock: unmapping takes longer than the game's thread should wait.
            if (old != null) old.Dispose();
        }

        /// <summary>Once true after a ring was given up: the client has to say hello again.</summary>
        internal bool TakeNeedsHello()
        {
            bool need = needsHello;
            needsHello = false;
            return need;
        }

        /// <summary>Keeps what a `frame.ring` notice says beyond the descriptor. From the frames thread.</summary>
        internal void Note(ref FrameInfo info)
        {
            lock (noticeGate)
            {
                notices[info.Number % NoticesKept] = info;
                lastNotice = info;
            }
        }

        /// <summary>Whether there is a frame to show that was not shown yet, and which.</summary>
        public bool TryNext(Playback playback, out FrameInfo info)
        {
            inOrder = playback == Playback.InOrder;
            lock (gate)
            {
                if (ring != null) return TryNextOfRing(playback == Playback.Newest, out info);
            }
            return Inline.TryPeek(playback == Playback.Newest, last, lastEpoch, out info);
        }

        /// <summary>
        /// Copies the frame that <see cref="TryNext"/> named as RGBA8 rows without gaps. False when it is gone: ask again.
        /// </summary>
        /// <param name="capacity">Bytes that fit at <paramref name="target"/>.</param>
        /// <param name="bottomFirst">The order of rows wanted: Unity's textures begin with the bottom row.</param>
        /// <exception cref="ArgumentException">The target is too small.</exception>
        public bool TryCopy(ref FrameInfo info, IntPtr target, long capacity, bool bottomFirst)
        {
            if (info.RgbaBytes > capacity)
                throw new ArgumentException("a frame of " + info.RgbaBytes + " bytes does not fit into " + capacity);
            if (info.Transport != Transport.Ring) return TryCopyInline(ref info, (byte*)target, bottomFirst);
            lock (gate)
            {
                if (ring == null || info.RingToken != ringToken) return false;
                try
                {
                    if (!ring.TryCopy(ref info, (byte*)target, bottomFirst))
                    {
                        Torn++;
                        return false;
                    }
                }
                catch (RingException)
                {
                    GiveUpRing();
                    return false;
                }
            }
            Take(ref info);
            return true;
        }

        /// <summary>The JPEG file of a frame whose transport is Jpeg, in an array of its own; null when it is gone.</summary>
        public byte[] TakeJpeg(ref FrameInfo info)
        {
            ArraySegment<byte> lent;
            if (!Inline.TryBorrow(ref info, out lent)) return null;
            var jpeg = new byte[lent.Count];
            Buffer.BlockCopy(lent.Array, lent.Offset, jpeg, 0, lent.Count);
            Inline.Return(ref info);
            Take(ref info);
            return jpeg;
        }

        public void Dispose()
        {
            SetRing(null);
            Inline.Clear();
        }

        bool TryNextOfRing(bool newest, out FrameInfo info)
        {
            info = new FrameInfo();
            try
            {
                if (!RingLives()) return false;
                Begin(ring.Epoch);
                for (int attempt = 0; attempt < Attempts; attempt++)
                {
                    long latest = ring.LatestSeq;
                    if (latest <= last) return false;
                    bool overrun = last > 0 && latest - (last + 1) >= ring.SlotCount - 1;
                    long wanted = newest || last == 0 || overrun || attempt > 0 ? latest : last + 1;
                    if (!ring.TryDescribe(wanted, ref info)) continue;
                    info.RingToken = ringToken;
                    AddNotice(ref info);
                    return true;
                }
            }
            catch (RingException)
            {
                GiveUpRing();
            }
            return false;
        }

        // The heartbeat is watched for change, not compared with our clock: the system's may have been set meanwhile.
        bool RingLives()
        {
            long beat = ring.HeartbeatNs;
            if (beat != heartbeat)
            {
                heartbeat = beat;
                sinceHeartbeat.Reset();
                sinceHeartbeat.Start();
            }
            RingState state = ring.State;
            bool over = state == RingState.Closed || state == RingState.Replaced;
            if (!over && sinceHeartbeat.ElapsedMilliseconds < StaleSeconds * 1000) return true;
            GiveUpRing();
            return false;
        }

        void GiveUpRing()
        {
            ring.Dispose();
            ring = null;
            ringToken++;
            needsHello = true;
        }

        // All counters of the server start anew with a new epoch.
        void Begin(long epoch)
        {
            if (epoch == lastEpoch) return;
            lastEpoch = epoch;
            last = 0;
        }

        void Take(ref FrameInfo info)
        {
            Begin(info.Epoch);
            long between = last > 0 ? info.Number - last - 1 : 0;
            if (inOrder) Lost += between;
            else Skipped += between;
            last = info.Number;
            Copied++;
        }

        void AddNotice(ref FrameInfo info)
        {
            lock (noticeGate)
            {
                int at = (int)(info.Number % NoticesKept);
                if (notices[at].Number == info.Number && notices[at].Epoch == info.Epoch)
                {
                    info.Prompt = notices[at].Prompt;
                    info.Stamps = notices[at].Stamps;
                }
                else if (lastNotice.Order == info.Order && lastNotice.Epoch == info.Epoch)
                    info.Prompt = lastNotice.Prompt; // the notice of this frame is on its way; the same order means the same prompt
            }
        }

        bool TryCopyInline(ref FrameInfo info, byte* target, bool bottomFirst)
        {
            ArraySegment<byte> lent;
            if (!Inline.TryBorrow(ref info, out lent)) return false;
            int rowBytes = info.Width * 4;
            bool reversed = bottomFirst != ((info.Flags & FrameFlags.BottomUp) != 0);
            for (int row = 0; row < info.Height; row++)
            {
                int from = reversed ? info.Height - 1 - row : row;
                Marshal.Copy(lent.Array, from * info.Stride, (IntPtr)(target + (long)row * rowBytes), rowBytes);
            }
            Inline.Return(ref info);
            Take(ref info);
            return true;
        }
    }
}
