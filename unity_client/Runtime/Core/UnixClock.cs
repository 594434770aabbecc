using System;

namespace Everscene
{
    /// <summary>
    /// Points in time as the protocol writes them: nanoseconds since the Unix epoch. The server's clock starts from the
    /// system's and never jumps, the system's may; <see cref="Observe"/> keeps the difference between the two.
    /// </summary>
    public sealed class UnixClock
    {
        const long EpochTicks = 621355968000000000; // 1970-01-01 in 100 ns ticks
        const int Kept = 8;

        readonly long[] offsets = new long[Kept];
        readonly long[] trips = new long[Kept];
        int observed;
        long offset;

        /// <summary>This machine's Unix time, ns, in steps of 100 ns.</summary>
        public static long SystemNow => (DateTime.UtcNow.Ticks - EpochTicks) * 100;

        /// <summary>The server's clock now, ns.</summary>
        public long ServerNow => SystemNow + System.Threading.Volatile.Read(ref offset);

        /// <summary>Forgets what was learnt of another server.</summary>
        public void Reset()
        {
            observed = 0;
            System.Threading.Volatile.Write(ref offset, 0);
        }

        /// <summary>
        /// Learns from a ping: sent and received by our clock, answered at <paramref name="serverNs"/> by the server's.
        /// The shortest of the last eight round trips counts, as in NTP; a difference that the trip can explain, plus
        /// 1 ms for a thread that had to wait, is none: both clocks are then the same machine's.
        /// </summary>
        public void Observe(long sentNs, long receivedNs, long serverNs)
        {
            int slot = observed++ % Kept;
            trips[slot] = receivedNs - sentNs;
            offsets[slot] = serverNs - (sentNs + (receivedNs - sentNs) / 2);
            int best = 0;
            for (int i = 1; i < Math.Min(observed, Kept); i++)
                if (trips[i] < trips[best]) best = i;
            bool same = Math.Abs(offsets[best]) <= trips[best] / 2 + 1000000;
            System.Threading.Volatile.Write(ref offset, same ? 0 : offsets[best]);
        }
    }
}
