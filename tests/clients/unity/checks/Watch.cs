using System;
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Everscene.Checks
{
    /// <summary>
    /// Takes frames for some seconds and says how old they were, what was allocated, and whether one was torn. With
    /// `verify=yes` the feeder has filled every 8-byte word of a frame with its number, and every word is looked at.
    /// </summary>
    sealed unsafe class Watch
    {
        const int WarmUp = 60;
        const int MostAges = 1 << 20;

        readonly string[] arguments;
        readonly double[] ages = new double[MostAges];

        public Watch(string[] arguments)
        {
            this.arguments = arguments;
        }

        public int Run()
        {
            double seconds = double.Parse(
                Program.Option(arguments, "seconds", "5"), System.Globalization.CultureInfo.InvariantCulture);
            bool verify = Program.Option(arguments, "verify", "no") == "yes";
            bool bottomFirst = Program.Option(arguments, "rows", "top") == "bottom";
            var playback = (Playback)Enum.Parse(typeof(Playback), Program.Option(arguments, "playback", "Newest"));
            using (var client = new EversceneClient(Program.Settings(arguments)))
            {
                long heard = 0, frames = 0, undetected = 0, collections = 0, allocated = 0, memory = 0;
                int counted = 0, capacity = 0;
                IntPtr pixels = IntPtr.Zero;
                FrameInfo info;
                var clock = new Stopwatch();
                while (!clock.IsRunning || clock.Elapsed.TotalSeconds < seconds)
                {
                    client.Wait(ref heard, 100);
                    client.Poll();
                    while (client.Frames.TryNext(playback, out info))
                    {
                        if (capacity < info.RgbaBytes)
                        {
                            capacity = info.RgbaBytes;
                            pixels = Marshal.AllocHGlobal(capacity);
                        }
                        if (!client.Frames.TryCopy(ref info, pixels, capacity, bottomFirst)) continue;
                        double age = (UnixClock.SystemNow - info.CommitNs) / 1e6;
                        client.MarkShown(ref info);
                        if (verify && !IsWhole((long*)pixels, info.RgbaBytes / 8, info.Number)) undetected++;
                        frames++;
                        if (frames == WarmUp)
                        {
                            clock.Start();
                            collections = GC.CollectionCount(0);
                            allocated = Allocated();
                            memory = GC.GetTotalMemory(false);
                        }
                        if (clock.IsRunning && counted < MostAges) ages[counted++] = age;
                    }
                }
                allocated = Allocated() - allocated;
                collections = GC.CollectionCount(0) - collections;
                memory = GC.GetTotalMemory(false) - memory;
                Array.Sort(ages, 0, counted);
                Console.WriteLine(Json.Line(
                    "kind", "watched", "frames", frames - WarmUp + 1, "seconds", clock.Elapsed.TotalSeconds,
                    "skipped", client.Frames.Skipped, "lost", client.Frames.Lost, "detected", client.Frames.Torn,
                    "undetected", undetected, "age_p50_ms", At(counted, 0.5), "age_p95_ms", At(counted, 0.95),
                    "age_p99_ms", At(counted, 0.99), "age_max_ms", At(counted, 1), "copy_p50_ms", CopyMs(capacity),
                    "collections", collections,
                    "allocated", allocated, "memory", memory, "transport", client.Statistics.Transport,
                    "mapped", client.Frames.IsMapped));
            }
            return 0;
        }

        double At(int count, double part) => count == 0 ? double.NaN : ages[Math.Min(count - 1, (int)(part * count))];

        // What a plain copy of so many bytes takes here and now, in the median: out of eight buffers, as many as a ring has slots.
        static double CopyMs(int bytes)
        {
            var sources = new IntPtr[8];
            for (int i = 0; i < sources.Length; i++)
            {
                sources[i] = Marshal.AllocHGlobal(bytes);
                for (int at = 0; at < bytes; at += 1024) Marshal.WriteByte(sources[i], at, 1); // memory that is there
            }
            IntPtr target = Marshal.AllocHGlobal(bytes);
            var times = new double[64];
            for (int i = 0; i < times.Length; i++)
            {
                Stopwatch watch = Stopwatch.StartNew();
                Buffer.MemoryCopy((void*)sources[i % sources.Length], (void*)target, bytes, bytes);
                times[i] = watch.Elapsed.TotalMilliseconds;
            }
            Array.Sort(times);
            return times[times.Length / 2];
        }

        static bool IsWhole(long* words, int count, long number)
        {
            for (int i = 0; i < count; i++)
                if (words[i] != number) return false;
            return true;
        }

        // Of all threads, to the byte where the runtime can say it (CoreCLR), else of none.
        static long Allocated()
        {
            System.Reflection.MethodInfo method = typeof(GC).GetMethod("GetTotalAllocatedBytes");
            return method == null ? -1 : (long)method.Invoke(null, new object[] { true });
        }
    }
}
