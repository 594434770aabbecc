namespace Everscene
{
    /// <summary>What the server says of itself in answer to hello. Fields as in docs/protocol.md §5.</summary>
    public sealed class Welcome
    {
        public int Major { get; private set; }
        public int Minor { get; private set; }
        /// <summary>Random id of this server start.</summary>
        public long Epoch { get; private set; }
        public string Server { get; private set; } = "";
        public string Model { get; private set; } = "";
        public int Width { get; private set; }
        public int Height { get; private set; }
        public double Fps { get; private set; }
        public int FramesPerChunk { get; private set; }
        public int Steps { get; private set; }
        public long Seed { get; private set; }
        public string Device { get; private set; } = "";
        /// <summary>Null when there is no ring.</summary>
        public RingAddress Ring { get; private set; }
        public string FramesEndpoint { get; private set; } = "";
        /// <summary>URL, or null.</summary>
        public string Viewer { get; private set; }
        public SceneDescription Scene { get; private set; } = new SceneDescription();
        public string Prompt { get; private set; } = "";
        public long Frame { get; private set; }
        public string State { get; private set; } = "";
        public long NowNs { get; private set; }

        internal static Welcome Read(ref MsgPackReader reader, int pairs)
        {
            var w = new Welcome();
            for (; pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (!w.ReadIdentity(ref reader, key) && !w.ReadStream(ref reader, key)) reader.Skip();
            }
            if (w.Epoch < 1) throw new MessageException("a welcome without an epoch");
            return w;
        }

        bool ReadIdentity(ref MsgPackReader reader, MsgPackKey key)
        {
            if (key.Is("protocol"))
            {
                int count = reader.List();
                for (int i = 0; i < count; i++)
                {
                    int number = (int)reader.Integer();
                    if (i == 0) Major = number;
                    else if (i == 1) Minor = number;
                }
            }
            else if (key.Is("epoch")) Epoch = reader.Integer();
            else if (key.Is("server")) Server = reader.TextOrNil() ?? "";
            else if (key.Is("model")) Model = reader.TextOrNil() ?? "";
            else if (key.Is("device")) Device = reader.TextOrNil() ?? "";
            else if (key.Is("seed")) Seed = reader.Integer();
            else if (key.Is("steps")) Steps = (int)reader.Integer();
            else if (key.Is("viewer")) Viewer = reader.TextOrNil();
            else if (key.Is("scene")) Scene = SceneDescription.Read(ref reader);
            else return false;
            return true;
        }

        bool ReadStream(ref MsgPackReader reader, MsgPackKey key)
        {
            if (key.Is("width")) Width = (int)reader.Integer();
            else if (key.Is("height")) Height = (int)reader.Integer();
            else if (key.Is("fps")) Fps = reader.Number();
            else if (key.Is("frames_per_chunk")) FramesPerChunk = (int)reader.Integer();
            else if (key.Is("ring")) Ring = RingAddress.Read(ref reader);
            else if (key.Is("frames_endpoint")) FramesEndpoint = reader.TextOrNil() ?? "";
            else if (key.Is("prompt")) Prompt = reader.TextOrNil() ?? "";
            else if (key.Is("frame")) Frame = reader.Integer();
            else if (key.Is("state")) State = reader.TextOrNil() ?? "";
            else if (key.Is("now_ns")) NowNs = reader.Integer();
            else return false;
            return true;
        }
    }

    /// <summary>Where the ring lies.</summary>
    public sealed class RingAddress
    {
        public string Path { get; private set; } = "";
        public long RingId { get; private set; }
        public int SlotCount { get; private set; }
        public long FileBytes { get; private set; }

        /// <summary>Null for nil.</summary>
        internal static RingAddress Read(ref MsgPackReader reader)
        {
            if (reader.TryNil()) return null;
            var ring = new RingAddress();
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("path")) ring.Path = reader.Text();
                else if (key.Is("ring_id")) ring.RingId = reader.Integer();
                else if (key.Is("slot_count")) ring.SlotCount = (int)reader.Integer();
                else if (key.Is("file_bytes")) ring.FileBytes = reader.Integer();
                else reader.Skip();
            }
            if (ring.Path.Length == 0) throw new MessageException("a ring without a path");
            return ring;
        }
    }
}
