using System;
using System.Collections.Generic;
using System.IO;
using System.Text;

namespace Everscene.Checks
{
    /// <summary>What the Core makes of the golden bytes of docs/protocol.md §10.</summary>
    static class Vectors
    {
        const long T0 = 1790000000000000000;

        public static void Print(string folder)
        {
            foreach (string path in Directory.GetFiles(Path.Combine(folder, "messages"), "*.msgpack"))
                Console.WriteLine(Json.Line(
                    "kind", "message", "name", Path.GetFileNameWithoutExtension(path), "value", Decode(File.ReadAllBytes(path))));
            foreach (string line in File.ReadAllLines(Path.Combine(folder, "values.hex")))
            {
                byte[] bytes = FromHex(line);
                object value = Decode(bytes);
                Console.WriteLine(Json.Line("kind", "value", "hex", line, "value", value, "again", Hex(Encode(value))));
            }
            foreach (string path in Directory.GetFiles(Path.Combine(folder, "ring"), "*.bin"))
                Console.WriteLine(PrintRing(path));
            PrintOurMessages();
            PrintOurHandshake();
        }

        /// <summary>Any msgpack value as plain objects.</summary>
        static object Decode(byte[] bytes)
        {
            var reader = new MsgPackReader(bytes, 0, bytes.Length);
            object value = Any(ref reader, bytes);
            if (!reader.AtEnd) throw new MessageException("bytes are left over");
            return value;
        }

        static object Any(ref MsgPackReader reader, byte[] bytes)
        {
            MsgPackReader here = reader;
            if (reader.TryNil()) return null;
            if (reader.NextIsNumber)
            {
                MsgPackReader asNumber = reader;
                try
                {
                    return reader.Integer();
                }
                catch (MessageException)
                {
                    reader = asNumber;
                    return reader.Number();
                }
            }
            foreach (Kind kind in new[] { Kind.Bool, Kind.Text, Kind.Map, Kind.List })
            {
                reader = here;
                try
                {
                    return As(kind, ref reader, bytes);
                }
                catch (MessageException)
                {
                    // Not that kind, then; the last one to fail throws for all.
                    if (kind == Kind.List) throw;
                }
            }
            return null;
        }

        enum Kind { Bool, Text, Map, List }

        static object As(Kind kind, ref MsgPackReader reader, byte[] bytes)
        {
            if (kind == Kind.Bool) return reader.Bool();
            if (kind == Kind.Text) return reader.Text();
            if (kind == Kind.Map)
            {
                var map = new Dictionary<string, object>();
                for (int pairs = reader.Map(); pairs > 0; pairs--) map[reader.Key().ToString()] = Any(ref reader, bytes);
                return map;
            }
            var list = new object[reader.List()];
            for (int i = 0; i < list.Length; i++) list[i] = Any(ref reader, bytes);
            return list;
        }

        static byte[] Encode(object value)
        {
            var writer = new MsgPackWriter();
            Put(writer, value);
            return writer.ToArray();
        }

        static void Put(MsgPackWriter writer, object value)
        {
            if (value == null) writer.Nil();
            else if (value is bool) writer.Bool((bool)value);
            else if (value is long) writer.Integer((long)value);
            else if (value is double) writer.Number((double)value);
            else if (value is string) writer.Text((string)value);
            else if (value is Dictionary<string, object>)
            {
                var map = (Dictionary<string, object>)value;
                writer.Map(map.Count);
                foreach (KeyValuePair<string, object> pair in map)
                {
                    writer.Text(pair.Key);
                    Put(writer, pair.Value);
                }
            }
            else
            {
                var list = (object[])value;
                writer.List(list.Length);
                foreach (object item in list) Put(writer, item);
            }
        }

        static string PrintRing(string path)
        {
            // The vectors are headers alone: the file is brought to its full size before the ring is opened.
            string whole = Path.GetTempFileName();
            try
            {
                using (var file = new FileStream(whole, FileMode.Create))
                {
                    byte[] header = File.ReadAllBytes(path);
                    file.Write(header, 0, header.Length);
                    file.SetLength(BitConverter.ToInt64(header, 0x010));
                }
                using (FrameRing ring = FrameRing.Open(whole, 0x0123456789ABCDEF))
                {
                    var slots = new List<object>();
                    for (long seq = 1; seq <= 6; seq++)
                    {
                        var info = new FrameInfo();
                        if (!ring.TryDescribe(seq, ref info)) continue;
                        slots.Add(new Dictionary<string, object>
                        {
                            { "seq", info.Number }, { "pts_ns", info.PtsNs }, { "commit_unix_ns", info.CommitNs },
                            { "width", info.Width }, { "height", info.Height }, { "stride_bytes", info.Stride },
                            { "flags", (int)info.Flags }, { "epoch", info.Epoch }, { "order", info.Order },
                            { "index", info.Index }, { "chunk", info.Chunk },
                        });
                    }
                    return Json.Line(
                        "kind", "ring", "name", Path.GetFileNameWithoutExtension(path), "slot_count", ring.SlotCount,
                        "ring_id", ring.RingId, "epoch", ring.Epoch, "file_bytes", ring.FileBytes,
                        "latest_seq", ring.LatestSeq, "heartbeat_unix_ns", ring.HeartbeatNs, "state", (int)ring.State,
                        "fps_numerator", (long)ring.FpsNumerator, "fps_denominator", (long)ring.FpsDenominator, "slots", slots);
                }
            }
            finally
            {
                File.Delete(whole);
            }
        }

        static void PrintOurMessages()
        {
            var w = new MsgPackWriter();
            Ours("hello", Messages.Hello(w, "front desk", long.MaxValue, "csharp", "0.1.0"));
            Ours("event", Messages.Event(w, 7, "storm", new[] { new EventParam("intensity", 0.8f) }, When.Now, T0));
            Ours("prompt", Messages.Prompt(w, 9, "a calm harbour at dawn", Transition.Recache, null, When.Now, T0));
            var blend = new Blend(4, BlendEase.Cosine, BlendPath.Slerp);
            Ours("prompt_blend", Messages.Prompt(w, 10, "a calm harbour at night", Transition.Blend, blend, When.Default, T0));
            var words = new Dictionary<string, string> { { "weather", "rain" }, { "moment", "" } };
            Ours("slots", Messages.Slots(w, 11, words, Transition.Blend, new Blend(2.5), When.Now, T0));
            Ours("seen", Messages.Seen(w, 5, T0 + 180000000));
            Ours("ping", Messages.Ping(w, 1, T0));
            Ours("stats_request", Messages.StatsRequest(w, 2));
            Ours("bye", Messages.Bye(w));
            EventParam[] values =
            {
                new EventParam("colour", "blue"), new EventParam("motto", "größer ☂"), new EventParam("large", true),
                new EventParam("count", -3),
            };
            Ours("event_params", Messages.Event(w, 300, "banner", values, When.Chunk, T0));
        }

        static void Ours(string name, byte[] bytes) =>
            Console.WriteLine(Json.Line("kind", "ours", "name", name, "hex", Hex(bytes)));

        static void PrintOurHandshake()
        {
            byte[] start = ZmtpConnection.GreetingStart();
            foreach (string mechanism in new[] { "NULL", "PLAIN" })
                Ours("greeting_" + mechanism.ToLowerInvariant(), Joined(start, ZmtpConnection.GreetingRest(mechanism)));
            Ours("ready_dealer_anonymous", Command(ZmtpConnection.Ready("READY", "DEALER")));
            Ours("ready_sub", Command(ZmtpConnection.Ready("READY", "SUB")));
            Ours("plain_initiate", Command(ZmtpConnection.Ready("INITIATE", "DEALER")));
            Ours("plain_hello", Command(ZmtpConnection.PlainHello("secret")));
            foreach (string hex in new[] { "054552524f5203343030", "5e52524f5203343030" })
            {
                byte[] body = FromHex(hex);
                string reason;
                bool isError = ZmtpConnection.ErrorReason(body, body.Length, out reason);
                Console.WriteLine(Json.Line("kind", "error", "is", isError, "reason", reason));
            }
        }

        static byte[] Command(byte[] body) => Joined(new byte[] { 4, (byte)body.Length }, body);

        static byte[] Joined(byte[] first, byte[] second)
        {
            var all = new byte[first.Length + second.Length];
            first.CopyTo(all, 0);
            second.CopyTo(all, first.Length);
            return all;
        }

        /// <summary>Bytes that are nearly messages: each must be read or refused by MessageException, nothing else.</summary>
        public static int Fuzz(string folder, int rounds)
        {
            var random = new Random(1);
            int read = 0, refused = 0;
            foreach (string path in Directory.GetFiles(Path.Combine(folder, "messages"), "*.msgpack"))
            {
                byte[] good = File.ReadAllBytes(path);
                for (int round = 0; round < rounds; round++)
                {
                    var bytes = (byte[])good.Clone();
                    for (int hits = random.Next(1, 4); hits > 0; hits--) bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                    var reader = new MsgPackReader(bytes, 0, random.Next(1, bytes.Length + 1));
                    try
                    {
                        if (round % 2 == 0) reader.Skip();
                        else SceneDescription.Read(ref reader);
                        read++;
                    }
                    catch (MessageException)
                    {
                        refused++;
                    }
                }
            }
            Console.WriteLine(Json.Line("kind", "fuzz", "read", read, "refused", refused));
            return 0;
        }

        static string Hex(byte[] bytes)
        {
            var text = new StringBuilder();
            foreach (byte b in bytes) text.Append(b.ToString("x2"));
            return text.ToString();
        }

        static byte[] FromHex(string hex)
        {
            var bytes = new byte[hex.Length / 2];
            for (int i = 0; i < bytes.Length; i++) bytes[i] = Convert.ToByte(hex.Substring(2 * i, 2), 16);
            return bytes;
        }
    }
}
