using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Threading;

namespace Everscene.Checks
{
    /// <summary>
    /// A client that a test leads by the hand: one command a line on stdin, everything that happens as lines on stdout.
    /// Commands: `event NAME key=value…`, `prompt TEXT`, `blend SECONDS TEXT`, `slots NAME=WORDS;…`, `await NAME`, `frames N`, `save PATH` (the next frame's
    /// pixels as they are), `problem`, `stats`, `close`.
    /// </summary>
    sealed class Session
    {
        const int StragglerMs = 3000;

        readonly ConcurrentQueue<string> commands = new ConcurrentQueue<string>();
        readonly EversceneClient client;
        readonly Playback playback;
        readonly bool bottomFirst;
        IntPtr pixels = Marshal.AllocHGlobal(4);
        int capacity = 4;
        int framesToPrint;
        string savePath;

        public Session(string[] arguments)
        {
            client = new EversceneClient(Program.Settings(arguments));
            playback = (Playback)Enum.Parse(typeof(Playback), Program.Option(arguments, "playback", "Newest"));
            bottomFirst = Program.Option(arguments, "rows", "top") == "bottom";
            client.Connected += w => Say(
                "kind", "connected", "epoch", w.Epoch, "model", w.Model, "width", w.Width, "height", w.Height, "fps", w.Fps,
                "prompt", w.Prompt, "events", Names(w.Scene), "slots", SlotsOf(w.Scene), "statistics", client.Statistics.Transport,
                "mapped", client.Frames.IsMapped);
            client.Disconnected += reason => Say("kind", "disconnected", "reason", reason);
            client.Failed += reason => Say("kind", "failed", "reason", reason, "state", client.State);
            client.ReceiptChanged += r => Say(
                "kind", "receipt", "name", r.Name, "state", r.State, "frame", r.Frame, "order", r.Order, "by", r.By,
                "code", r.Code, "reason", r.Reason, "latency_ms", r.LatencyMs, "prompt", r.Prompt);
            client.PromptChanged += (text, order) => Say("kind", "prompt", "text", text, "order", order);
            client.ServerStateChanged += (state, reason) => Say("kind", "state", "state", state, "reason", reason);
            client.InputAccepted += (name, sender) => Say("kind", "input", "name", name, "sender", sender);
            client.StatsReceived += s => Say(
                "kind", "stats", "numbers", new Dictionary<string, double>((IDictionary<string, double>)s.Numbers),
                "prompt", s.Prompt, "state", s.State, "latency_n", s.LatencyMs.N);
        }

        public int Run()
        {
            new Thread(ReadCommands) { IsBackground = true }.Start();
            long heard = 0;
            while (true)
            {
                client.Poll();
                TakeFrames();
                string line;
                while (commands.TryDequeue(out line))
                {
                    if (line == "close") return Close();
                    Do(line);
                }
                client.Wait(ref heard, 5);
            }
        }

        int Close()
        {
            ClientStatistics s = client.Statistics;
            object control = Field(client, "control");
            var threads = new[] { (Thread)Field(control, "listener"), (Thread)Field(control, "sender"), (Thread)Field(Field(client, "frames"), "thread") };
            Stopwatch watch = Stopwatch.StartNew();
            client.Dispose();
            double ms = watch.Elapsed.TotalMilliseconds;
            // Dispose waits for no thread beyond its time. On a busy machine one may need a moment more to reach its end, and
            // Mono needs a second to let go of a connect that hangs.
            int ended = Array.FindAll(threads, one => one.Join(StragglerMs)).Length;
            Say("kind", "closed", "ms", ms, "shown", s.Shown, "skipped", s.Skipped, "lost", s.Lost, "torn", s.Torn,
                "reconnects", s.Reconnects, "seen_p50_ms", s.SeenP50Ms, "age_p50_ms", s.AgeP50Ms,
                "threads_ended", ended);
            return 0;
        }

        static object Field(object one, string name) =>
            one.GetType().GetField(name, BindingFlags.Instance | BindingFlags.NonPublic).GetValue(one);

        void Do(string line)
        {
            string[] words = line.Split(' ');
            switch (words[0])
            {
                case "event":
                    var values = new List<EventParam>();
                    for (int i = 2; i < words.Length; i++) values.Add(Param(words[i]));
                    client.SendEvent(words[1], values.ToArray());
                    break;
                case "prompt": client.SendPrompt(line.Substring(7)); break;
                case "blend": client.SendPrompt(string.Join(" ", words, 2, words.Length - 2), new Blend(Number(words[1]))); break;
                case "slots": client.SendSlots(Slots(line.Substring(6)), Transition.Blend); break;
                case "await": Await(words[1]); break;
                case "frames":
                    framesToPrint = int.Parse(words[1]);
                    Say("kind", "counting");
                    break;
                case "save": savePath = line.Substring(5); break;
                case "problem": Say("kind", "problem", "words", client.LastError); break;
                case "stats": client.RequestStats(); break;
                default: Say("kind", "unknown", "line", line); break;
            }
        }

        async void Await(string name)
        {
            Receipt receipt = await client.SendEvent(name);
            Say("kind", "awaited", "state", receipt.State, "thread", Thread.CurrentThread.ManagedThreadId == 1);
        }

        static double Number(string text) => double.Parse(text, CultureInfo.InvariantCulture);

        static Dictionary<string, string> Slots(string text)
        {
            var slots = new Dictionary<string, string>();
            foreach (string pair in text.Split(';')) slots[pair.Split('=')[0]] = pair.Split('=')[1];
            return slots;
        }

        static EventParam Param(string pair)
        {
            string name = pair.Split('=')[0], value = pair.Split('=')[1];
            double number;
            bool flag;
            if (double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out number))
                return new EventParam(name, number);
            return bool.TryParse(value, out flag) ? new EventParam(name, flag) : new EventParam(name, value);
        }

        unsafe void TakeFrames()
        {
            FrameInfo info;
            while (client.Frames.TryNext(playback, out info))
            {
                if (info.Transport == Transport.Jpeg)
                {
                    byte[] jpeg = client.Frames.TakeJpeg(ref info);
                    if (jpeg == null) continue;
                    client.MarkShown(ref info);
                    Print(ref info, 0, jpeg.Length);
                    continue;
                }
                if (capacity < info.RgbaBytes)
                {
                    pixels = Marshal.ReAllocHGlobal(pixels, (IntPtr)info.RgbaBytes);
                    capacity = info.RgbaBytes;
                }
                if (!client.Frames.TryCopy(ref info, pixels, capacity, bottomFirst)) continue;
                client.MarkShown(ref info);
                Save(ref info);
                Print(ref info, framesToPrint > 0 ? Crc32.Of((byte*)pixels, info.RgbaBytes) : 0, 0);
            }
        }

        void Save(ref FrameInfo info)
        {
            if (savePath == null) return;
            var bytes = new byte[info.RgbaBytes];
            Marshal.Copy(pixels, bytes, 0, bytes.Length);
            File.WriteAllBytes(savePath, bytes);
            savePath = null;
            Say("kind", "saved", "number", info.Number, "width", info.Width, "height", info.Height, "prompt", info.Prompt);
        }

        void Print(ref FrameInfo info, uint crc, int jpeg)
        {
            if (framesToPrint <= 0) return;
            framesToPrint--;
            Say("kind", "frame", "number", info.Number, "crc", (long)crc, "chunk", info.Chunk, "index", info.Index,
                "order", info.Order, "prompt", info.Prompt, "epoch", info.Epoch, "width", info.Width, "height", info.Height,
                "published", info.Stamps.Published, "jpeg", jpeg, "transport", info.Transport);
        }

        static List<object> Names(SceneDescription scene)
        {
            var names = new List<object>();
            foreach (SceneEvent known in scene.Events) names.Add(known.Name);
            return names;
        }

        static List<object> SlotsOf(SceneDescription scene)
        {
            var slots = new List<object>();
            foreach (SceneSlot known in scene.Slots)
                slots.Add(new Dictionary<string, object>
                {
                    { "name", known.Name }, { "default", known.Default }, { "choices", new List<object>(known.Choices) },
                });
            return slots;
        }

        static void Say(params object[] pairs) => Console.WriteLine(Json.Line(pairs));

        void ReadCommands()
        {
            string line;
            while ((line = Console.ReadLine()) != null) commands.Enqueue(line);
            commands.Enqueue("close");
        }
    }
}
