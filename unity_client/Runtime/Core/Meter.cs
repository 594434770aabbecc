using System;

namespace Everscene
{
    /// <summary>The last 256 values of something, for median and 95th percentile. Adding allocates nothing.</summary>
    public sealed class Meter
    {
        const int Kept = 256;

        readonly double[] values = new double[Kept];
        readonly double[] sorted = new double[Kept];

        /// <summary>How many were added in all.</summary>
        public long Count { get; private set; }

        public void Add(double value)
        {
            values[Count % Kept] = value;
            Count++;
        }

        /// <summary>The value below which this part (0 to 1) of the kept ones lies, nearest rank; 0 when there are none.</summary>
        public double Quantile(double part)
        {
            int count = (int)Math.Min(Count, Kept);
            if (count == 0) return 0;
            Array.Copy(values, sorted, count);
            Array.Sort(sorted, 0, count);
            return sorted[Math.Max(0, (int)Math.Ceiling(part * count) - 1)];
        }
    }

    /// <summary>What this client measured since it started.</summary>
    public struct ClientStatistics
    {
        /// <summary>Frames shown per second, over the last second or so.</summary>
        public double Fps;
        /// <summary>Frames shown.</summary>
        public long Shown;
        /// <summary>Passed over for a newer one (playback Newest).</summary>
        public long Skipped;
        /// <summary>Missed although every one was wanted (playback InOrder).</summary>
        public long Lost;
        /// <summary>Copies thrown away because the server wrote into the slot meanwhile.</summary>
        public long Torn;
        /// <summary>Times the connection was made again.</summary>
        public long Reconnects;
        /// <summary>Age of a frame when its copy ended: its commit to now, ms.</summary>
        public double AgeP50Ms;
        public double AgeP95Ms;
        /// <summary>From SendEvent to the frame that shows it on screen here, ms.</summary>
        public double SeenP50Ms;
        public double SeenP95Ms;
        public Transport Transport;
    }
}
