using System;

namespace Everscene
{
    [Flags]
    public enum FrameFlags
    {
        None = 0,
        /// <summary>A scene cut or a new world begins here.</summary>
        Cut = 1,
        BottomUp = 2,
        Premultiplied = 4,
        Opaque = 8,
        /// <summary>Content was lost before this frame: the engine was restarted.</summary>
        Discontinuity = 16,
        Last = 32,
    }

    /// <summary>How the pixels came.</summary>
    public enum Transport { None, Ring, Raw, Jpeg }

    /// <summary>
    /// All that is known of one frame. A plain struct: copying it allocates nothing. Points in time are on the server's
    /// clock, ns since the Unix epoch; 0 = none.
    /// </summary>
    public struct FrameInfo
    {
        /// <summary>Frame number: 1 for the first of an epoch, then +1 for each.</summary>
        public long Number;
        public long Epoch;
        public long Chunk;
        /// <summary>Which frame of its chunk, from 0.</summary>
        public int Index;
        /// <summary>Server's number of the latest event or prompt under which it was generated; 0 = none.</summary>
        public long Order;
        public int Width;
        public int Height;
        /// <summary>Bytes from row to row where it lies now.</summary>
        public int Stride;
        public FrameFlags Flags;
        public Transport Transport;
        /// <summary>Content time, ns.</summary>
        public long PtsNs;
        public long CommitNs;
        /// <summary>The prompt under which it was generated; null while its notice is not here yet.</summary>
        public string Prompt;
        public FrameStamps Stamps;

        public bool IsCut => (Flags & FrameFlags.Cut) != 0;
        public int RgbaBytes => Width * Height * 4;

        internal long RingToken; // which opening of a ring, or which inline slot, it was seen in
    }

    /// <summary>When the stages were done; all 0 until the frame's notice is here.</summary>
    public struct FrameStamps
    {
        public long Received;
        public long Recached;
        public long Denoised;
        public long Decoded;
        public long Published;
    }
}
